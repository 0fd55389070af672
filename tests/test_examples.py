"""The examples do what their pages say: the scripts as they are, with real trainings on tiny images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples_kit import EXAMPLES, Example, end_group
from nnunet_kit import CONFIGURATION, DATASET_ID, offer_like_a_peer, sites_for, use_folders

from peer_sync.site import load_site

if not EXAMPLES.exists():
    pytest.skip("the tests run without the repository", allow_module_level=True)


def marked(test):
    """Minutes, not seconds."""
    return pytest.mark.slow(pytest.mark.timeout(1800)(test))


@pytest.fixture
def example(tmp_path):
    """Call it with the name of an example; what it leaves is ended."""
    made: list[Example] = []

    def make(name: str) -> Example:
        made.append(Example(name, tmp_path / "sites"))
        return made[-1]

    yield make
    for each in made:
        each.leave()


@marked
def test_two_sites_on_a_laptop_learn_from_each_other(example):
    """From nothing to two trained networks; each has met the other's, and the check before was content."""
    laptop = example("laptop")

    laptop.run()

    assert laptop.said.count("\nready: ") == 2
    for site, peer in (("north", "east"), ("east", "north")):
        assert laptop.has_ended_well(site)
        assert {line["peer"] for line in laptop.met(site)} == {peer}


@marked
def test_a_shared_folder_carries_weights_that_it_cannot_read(example):
    """Both sites learn from each other through a folder, in which all weights are encrypted."""
    relay = example("relay")

    relay.run()

    shared = relay.folder / "shared"
    offered = list(shared.rglob("*.safetensors*"))
    assert {path.relative_to(shared).parts[0] for path in offered} == {"north", "east"}
    assert all(path.read_bytes().startswith(b"age-encryption.org/v1") for path in offered)
    for site, peer in (("north", "east"), ("east", "north")):
        assert relay.has_ended_well(site)
        assert {line["peer"] for line in relay.met(site)} == {peer}


@marked
def test_a_site_joins_at_round_20(example):
    """Two sites reach round 20 by themselves; from then on the third learns from them, and they meet it."""
    join = example("join")

    join.run()

    assert all(join.has_ended_well(site) for site in ("north", "east", "south"))
    assert {line["peer"] for line in join.met("south")} <= {"north", "east"} and join.met("south")
    met = [line for site in ("north", "east") for line in join.met(site)]
    assert any(line["peer"] != "south" for line in met if line["round"] <= 20)
    assert min(line["round"] for line in met if line["peer"] == "south") >= 20


@marked
def test_a_site_leaves_and_its_trace_is_known(example):
    """Before it left the others met it, after that never; provenance names the runs that it touched."""
    leave = example("leave")

    leave.run()

    assert any(line["peer"] == "south" for site in ("north", "east") for line in leave.met(site))
    for site in ("north", "east"):
        assert leave.has_ended_well(site)
        _, after = (leave.folder / site / "train.log").read_text().split("; without south")
        assert "offering our weights" in after and "weights of site south" not in after
        touched = any(line["peer"] == "south" and line["used"] for line in leave.met(site))
        assert ("weights of south touched 1 of 1 run" if touched else "touched none of 1 run") in leave.said


SLURM = EXAMPLES / "slurm"
HELD = """
import time
from nnUNetTrainerGML_short import nnUNetTrainerGML_short
from nnunet_kit import wait_for_delivery


class nnUNetTrainerGML_held(nnUNetTrainerGML_short):
    def on_epoch_start(self):
        if not self.restored and self.current_epoch == 1:
            wait_for_delivery(self.own_site, 200)
        super().on_epoch_start()
        if not self.restored and self.current_epoch == 3:
            time.sleep(600)
"""
"""The short trainer; before it is continued it waits for its peer, and then to be killed."""


@pytest.fixture
def home(phantom_data, tmp_path, monkeypatch):
    """The home folder of examples/slurm: site, data, environment; north has a relay, south has offered."""
    if sys.prefix == sys.base_prefix or shutil.which("flock") is None:
        pytest.skip("needs a virtual environment and flock")
    home, data = tmp_path / "home", phantom_data()
    gml = home / "gml"
    gml.mkdir(parents=True)
    use_folders(data, monkeypatch, tmp_path / "results")
    sites_for(gml, data)
    federation = gml / "federation.toml"
    federation.write_text(federation.read_text().replace("folder:north/outbox", "folder:relay"))
    offer_like_a_peer(load_site(gml / "south.toml"), data)
    (gml / "relay").mkdir()
    own = (gml / "north.toml").read_text()
    (gml / "site.toml").write_text(f'{own}courier = "agent"\nrelay = "folder:relay"\n')
    (home / "variants").mkdir()
    (home / "variants" / "nnUNetTrainerGML_held.py").write_text(HELD)
    (home / "nnunet").symlink_to(sys.prefix)
    (home / "nnUNet_raw").symlink_to(data / "nnUNet_raw")
    shutil.copytree(data / "nnUNet_preprocessed", home / "nnUNet_preprocessed")
    return home


def batch_job(home: Path) -> Path:
    """train.sbatch with the numbers of the test's data; the rest is as it is in the example."""
    text = (SLURM / "train.sbatch").read_text()
    for line, ours in (
        ("DATASET=42", f"DATASET={DATASET_ID}"),
        ("CONFIGURATION=3d_fullres", f"CONFIGURATION={CONFIGURATION}"),
        ("TRAINER=nnUNetTrainerGML", "TRAINER=nnUNetTrainerGML_held"),
        ('$(nnunet-gml trainers)"', f'$(nnunet-gml trainers):{home}/variants"'),
        ('-tr "$TRAINER"', '-tr "$TRAINER" -device cpu'),
    ):
        assert text.count(line) == 1
        text = text.replace(line, ours)
    job = home / "train.sbatch"
    job.write_text(text)
    return job


def submit(home: Path) -> subprocess.Popen[str]:
    """Start the job where there is no network, if this machine lets us."""
    alone = ("unshare", "--net") if os.geteuid() == 0 and shutil.which("unshare") else ()
    modules = os.pathsep.join([str(EXAMPLES / "phantom" / "trainers"), str(Path(__file__).parent)])
    small = {
        "PYTHONPATH": modules,
        "SLURM_CPUS_PER_TASK": "0",
        "nnUNet_def_n_proc": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with (home / "gml-north.log").open("a") as log:
        return subprocess.Popen(
            [*alone, "bash", batch_job(home)],
            env={**os.environ, **small, "HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def cron(home: Path) -> list[int]:
    """Exit codes of the lines of the example's crontab, each run once."""
    lines = [line for line in (SLURM / "crontab").read_text().splitlines() if not line.startswith("#")]
    return [
        subprocess.run(
            ["sh", "-c", line.split(maxsplit=5)[5]],
            env={**os.environ, "HOME": str(home)},
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode
        for line in lines
    ]


def wait_until(is_so, home: Path, job: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not is_so():
        assert job.poll() is None and time.monotonic() < end, (home / "gml-north.log").read_text()[-3000:]
        cron(home)


@marked
def test_a_job_without_network_is_requeued_and_learns_through_cron(home):
    """Killed and submitted again it continues; cron moves weights both ways, and status is content."""
    log = home / "gml-north.log"
    job = submit(home)
    try:
        wait_until(lambda: "weights of site south are here" in log.read_text(), home, job)
        end_group(job)
        first = log.read_text()
        job = submit(home)
        assert job.wait(timeout=300) == 0, log.read_text()[-3000:]
    finally:
        end_group(job)

    again = re.search(r"Epoch (\d+)", log.read_text().removeprefix(first))
    assert again is not None and int(again[1]) > 0
    assert cron(home) == [0, 0]
    assert newest(home / "gml" / "relay") == newest(home / "gml" / "north" / "outbox")


def newest(outbox: Path) -> str:
    """The last offer's weights."""
    return max(path.name for path in outbox.glob("*.safetensors"))


def test_the_hippocampus_example_without_its_data_says_so(tmp_path):
    """Then it ends well, and writes nothing."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "hippocampus" / "run.py"],
        env={**os.environ, "GML_DATA": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0 and done.stdout.startswith("skipped: ")
    assert list(tmp_path.iterdir()) == []
