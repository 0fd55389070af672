"""Jobs of a simulation through submitit, by its own local executor."""

import argparse
import sys
import time

import pytest

from nnunet_gml.commands import simulate, simulate_options
from nnunet_gml.simulation.launchers import Cluster, parse_options
from nnunet_gml.simulation.loopback import write_federation
from nnunet_gml.simulation.processes import Job, run_side_by_side
from nnunet_gml.simulation.recipe import Recipe, claim
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError
from peer_sync.routes import way_to
from peer_sync.site import load_site
from peer_sync.transport.folder import FolderTransport


def job(folder, site, text):
    """A job that runs a line of Python, with a variable of its own."""
    command = (sys.executable, "-c", text)
    log = folder / site / "logs" / "train.log"
    return Job(site, command, {"WORD": f"of {site}"}, log, folder / site / "x.done")


@pytest.fixture
def cluster(tmp_path):
    """submitit's local executor."""
    pytest.importorskip("submitit")
    return Cluster(tmp_path / "jobs", "local", {"timeout_min": 5})


def test_jobs_run_as_submitted(tmp_path, cluster):
    """One ends well, with its own log and variables; one fails with its own exit code."""
    (tmp_path / "a").mkdir()
    well = job(tmp_path, "a", "import os; print('word', os.environ['WORD'])")
    bad = job(tmp_path, "b", "raise SystemExit(3)")

    outcomes = run_side_by_side([well, bad], 2, lambda: None, lambda outcome: None, cluster)

    assert {outcome.job.site: outcome.exit_code for outcome in outcomes} == {"a": 0, "b": 3}
    assert well.last_lines(1) == "word of a"
    assert (well.is_done(), bad.is_done()) == (True, False)
    assert any((tmp_path / "jobs").iterdir())


def test_jobs_end_with_the_simulation(tmp_path, cluster):
    """Whoever is interrupted leaves no training behind, as with processes of one's own."""
    marker = tmp_path / "alive"
    text = f"import time, pathlib\nwhile True:\n    pathlib.Path({str(marker)!r}).touch(); time.sleep(0.2)"

    def interrupt():
        if marker.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([job(tmp_path, "a", text)], 1, interrupt, lambda outcome: None, cluster)

    for _ in range(100):
        marker.unlink(missing_ok=True)
        time.sleep(0.6)
        if not marker.exists():
            return
    pytest.fail("the job still runs")


def test_without_submitit_a_sentence(tmp_path, monkeypatch):
    """What is missing, and how to get it."""
    monkeypatch.setitem(sys.modules, "submitit", None)

    with pytest.raises(ConfigError, match="slurm needs submitit") as refused:
        Cluster(tmp_path, "slurm", {})

    assert "pip install" in refused.value.hint


def test_without_slurm_a_sentence(tmp_path, monkeypatch):
    """submitit finds no srun in an empty PATH."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="submitit cannot use slurm"):
        Cluster(tmp_path, "slurm", {})


def test_options_are_submitits(tmp_path):
    """Numbers and words; an unknown one is refused by submitit, and what is no option by us."""
    pytest.importorskip("submitit")

    assert Cluster(tmp_path, "local", parse_options(["cpus_per_task=4"])).threads == 4
    with pytest.raises(ConfigError, match="quickly"):
        Cluster(tmp_path, "local", parse_options(["quickly=true"]))
    with pytest.raises(ConfigError, match="launcher-option"):
        parse_options(["timeout_min"])


def test_sites_of_different_machines_read_the_run_folder(tmp_path):
    """Each arm has its own federation, as the outbox has an address in it; there is no server to reach."""
    recipe = Recipe((), ("nnUNetTrainerGML", "other=nnUNetTrainerFedAvg"), 1, 1, 5, by_folder=True)
    sites = [SiteSpace(name, tmp_path / f"Dataset001_{name}", tmp_path / "sites" / name) for name in "ab"]

    write_federation(tmp_path, sites, recipe, "0" * 64)

    for arm, mail in (("nnUNetTrainerGML", "mail"), ("other", "mail-other")):
        site = load_site(sites[0].site_file(arm))
        transport = way_to(site, "b")
        assert site.listen is None
        assert isinstance(transport, FolderTransport)
        assert transport.path.resolve() == tmp_path / "sites" / "b" / mail / "outbox"


def test_a_launcher_is_part_of_the_recipe_by_what_it_changes(tmp_path):
    """A run whose sites serve each other cannot be continued where they read folders."""
    parser = argparse.ArgumentParser()
    simulate_options.add_arguments(parser)
    plain, slurm = (
        simulate.recipe_of(parser.parse_args(f"raw --epochs 1 --out o {more}".split()))
        for more in ("", "--launcher slurm")
    )

    assert (plain.by_folder, slurm.by_folder) == (False, True)
    (tmp_path / "jobs").mkdir()  # submitit's folder is there before the run is
    assert claim(tmp_path, slurm, continued=False)["recipe"]["by_folder"]
