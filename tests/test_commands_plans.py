"""The commands of ``nnunet-gml plans`` as a person types them, without a minute of nnU-Net."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from nnunet_kit import CONFIGURATION, plans_of, use_folders

from nnunet_gml import cli
from nnunet_gml.planning import adopting
from nnunet_gml.planning.foreign_plans import check_plans
from nnunet_gml.planning.plans import plans_digest
from peer_sync.errors import ConfigError
from peer_sync.storage import write_durably

DATASET = "Dataset901_north"


@pytest.fixture
def here(phantom_data, tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders with the planned phantom; stock commands note that they were called."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(
            phantom_data() / name / DATASET,
            tmp_path / name / DATASET,
            ignore=shutil.ignore_patterns("*.b2nd"),
        )
    use_folders(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def stock(monkeypatch) -> list[tuple[str, ...]]:
    """Calls of nnU-Net's commands, which do nothing."""
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(adopting, "run_stock", lambda *words, log=None: called.append(words))
    return called


def plans_file(here: Path) -> Path:
    return here / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"


def change(path: Path, target: Path | None = None, **fields: object) -> Path:
    """A plans file with another small configuration."""
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION] |= fields
    target = target or path
    target.write_text(json.dumps(plans))
    return target


def test_offer_tells_the_digest_and_what_others_do(here, sites, capsys):
    """The digest is the one of ``plans digest``."""
    code = cli.main(["plans", "offer", str(sites["south"].path), "901", CONFIGURATION])

    said = capsys.readouterr().out
    assert code == 0
    assert plans_digest(*plans_of(here), CONFIGURATION) in said
    assert "--from south" in said


def test_compare_shows_fields_values_and_sites(here, sites, capsys):
    """Exit code 1 while anything differs or is not known, 0 when all agree."""
    words = [str(sites["north"].path), "901", CONFIGURATION]
    unknown = cli.main(["plans", "compare", *words])
    cli.main(["plans", "offer", str(sites["south"].path), "901", CONFIGURATION])
    agreeing = cli.main(["plans", "compare", *words])
    change(plans_file(here), patch_size=[16, 16, 16])
    differing = cli.main(["plans", "compare", *words])

    said = capsys.readouterr().out
    assert (unknown, agreeing, differing) == (1, 0, 1)
    assert "south: not known" in said
    assert "south: the same plans" in said
    assert "configuration.patch_size: '[16, 16, 16]' at north, '[16, 24, 24]' at south" in said


def test_adopted_plans_are_in_place_and_the_old_ones_beside_them(here, sites, stock, capsys):
    """By nnU-Net's own command; then preprocessed by its own; what changed is shown."""
    cli.main(["plans", "offer", str(sites["south"].path), "901", CONFIGURATION])
    offered = plans_file(here).read_text()
    change(plans_file(here), patch_size=[16, 16, 16])

    code = cli.main(["plans", "adopt", str(sites["north"].path), "901", "--from", "south"])

    said = capsys.readouterr().out
    assert code == 0
    assert json.loads(plans_file(here).read_text()) == json.loads(offered)
    before = json.loads(Path(f"{plans_file(here)}.replaced").read_text())
    assert before["configurations"][CONFIGURATION]["patch_size"] == [16, 16, 16]
    assert "configuration.patch_size: '[16, 16, 16]' before, '[16, 24, 24]' now" in said
    assert stock == [
        ("nnUNetv2_move_plans_between_datasets", "-s", DATASET, "-t", DATASET, "-sp", "nnUNetPlans"),
        ("nnUNetv2_preprocess", "-d", "901", "-c", CONFIGURATION, "-plans_name", "nnUNetPlans"),
    ]


def test_a_dataset_that_was_never_planned_gets_its_fingerprint(here, sites, stock):
    """nnU-Net's training copies it, and adopting plans does not make one."""
    cli.main(["plans", "offer", str(sites["south"].path), "901", CONFIGURATION])
    plans_file(here).with_name("dataset_fingerprint.json").unlink()

    assert cli.main(["plans", "adopt", str(sites["north"].path), "901", "--from", "south"]) == 0

    assert ("nnUNetv2_extract_fingerprint", "-d", "901") in stock


def test_a_file_is_adopted_too(here, sites, stock, tmp_path, capsys):
    """One that came by mail; the configuration has to be named, and nothing is preprocessed if so asked."""
    mailed = change(plans_file(here), tmp_path / "mailed.json", patch_size=[16, 16, 16])
    words = ["plans", "adopt", str(sites["north"].path), "901", "--file", str(mailed), "--no-preprocess"]

    unnamed = cli.main(words)
    named = cli.main([*words, "-c", CONFIGURATION])

    assert (unnamed, named) == (2, 0)
    said = capsys.readouterr()
    assert "does not say which configuration" in said.err
    assert f"nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans -c {CONFIGURATION}" in said.out
    assert [words[0] for words in stock] == ["nnUNetv2_move_plans_between_datasets"]
    assert json.loads(plans_file(here).read_text())["configurations"][CONFIGURATION]["patch_size"] == [16] * 3


def test_a_file_that_could_run_code_is_refused(here, sites, stock, tmp_path, capsys):
    """By mail or not: nnU-Net would import what it names."""
    mailed = change(plans_file(here), tmp_path / "mailed.json", data_identifier="../../..")

    code = cli.main(
        ["plans", "adopt", str(sites["north"].path), "901", "--file", str(mailed), "-c", CONFIGURATION]
    )

    assert (code, stock) == (2, [])
    assert "data_identifier" in capsys.readouterr().err


def test_plans_that_nnunet_does_not_take_leave_the_old_ones(here, monkeypatch):
    """Half a change is none."""
    before = plans_file(here).read_bytes()

    def fail(*words: str, log: Path | None = None) -> None:
        raise ConfigError("it has ended with exit code 1")

    monkeypatch.setattr(adopting, "run_stock", fail)
    with pytest.raises(ConfigError):
        adopting.adopt(
            DATASET, check_plans(json.loads(before)) | {"transpose_forward": [2, 1, 0]}, CONFIGURATION
        )

    assert plans_file(here).read_bytes() == before
    assert not Path(f"{plans_file(here)}.replaced").exists()


def test_adopting_again_keeps_what_was_there_before(here, sites, stock, capsys):
    """The same plans a second time do not push the site's own ones out."""
    cli.main(["plans", "offer", str(sites["south"].path), "901", CONFIGURATION])
    change(plans_file(here), patch_size=[16, 16, 16])
    own = plans_file(here).read_bytes()
    words = ["plans", "adopt", str(sites["north"].path), "901", "--from", "south", "--no-preprocess"]

    assert (cli.main(words), cli.main(words)) == (0, 0)

    assert Path(f"{plans_file(here)}.replaced").read_bytes() == own


def test_plans_survive_a_computer_that_stops_while_others_are_adopted(here, stock, monkeypatch):
    """The old ones lie on the disk meanwhile, and the next call finds them."""
    own, new = plans_file(here).read_bytes(), json.loads(plans_file(here).read_text())
    new["configurations"][CONFIGURATION]["patch_size"] = [16, 16, 16]

    with monkeypatch.context() as patch:
        patch.setattr(adopting, "_localise", lambda *words: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            adopting.adopt(DATASET, new, CONFIGURATION)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert plans_file(here).read_bytes() != own
    adopting.adopt(DATASET, new, CONFIGURATION)

    assert Path(f"{plans_file(here)}.replaced").read_bytes() == own


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_full_disk_leaves_the_old_plans(here, stock, monkeypatch, which):
    """Whichever file does not fit: a sentence, and nothing has changed."""
    own, new = plans_file(here).read_bytes(), json.loads(plans_file(here).read_text())
    new["configurations"][CONFIGURATION]["patch_size"] = [16, 16, 16]
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > which:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_durably(path, data)

    monkeypatch.setattr("nnunet_gml.planning.planned.write_durably", write)
    with pytest.raises(ConfigError, match="No space left"):
        adopting.adopt(DATASET, new, CONFIGURATION)

    assert plans_file(here).read_bytes() == own
    assert json.loads((plans_file(here).parent / "dataset.json").read_text())


def test_a_plans_file_of_too_many_levels_is_refused(here, sites, stock, tmp_path, capsys):
    """As any other that is none."""
    deep = tmp_path / "deep.json"
    deep.write_text('{"configurations": ' + "[" * 100_000 + "]" * 100_000 + "}")

    code = cli.main(
        ["plans", "adopt", str(sites["north"].path), "901", "--file", str(deep), "-c", CONFIGURATION]
    )

    assert code == 2
    assert "is not JSON" in capsys.readouterr().err


def test_other_labels_stay_different_and_are_told(here, sites, stock, capsys):
    """Plans do not change dataset.json: a person has to."""
    cli.main(["plans", "offer", str(sites["south"].path), "901", CONFIGURATION])
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        path = here / name / DATASET / "dataset.json"
        description = json.loads(path.read_text())
        description["labels"]["Mandible"] = description["labels"].pop("mandible")
        path.write_text(json.dumps(description))

    cli.main(["plans", "adopt", str(sites["north"].path), "901", "--from", "south", "--no-preprocess"])

    said = capsys.readouterr().out
    assert "still different, because dataset.json differs" in said
    assert "labels.Mandible: '3' at north, 'None' at south" in said


def test_pool_says_what_it_waits_for(here, sites, capsys):
    """Exit code 3: nothing is wrong, others have to do something first."""
    code = cli.main(["plans", "pool", str(sites["north"].path), "901"])

    assert code == 3
    said = capsys.readouterr().out
    assert "waiting for counts of site south: not published yet" in said
    assert "Run this again when the others have" in said


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        ("south", "first at south: nnunet-gml plans offer"),
        ("north", "this site itself"),
        ("west", "no site is called 'west'"),
    ],
)
def test_plans_that_nobody_has_offered_are_asked_for(here, sites, capsys, peer, words):
    """Too early, from ourselves, from nobody: each says what to do."""
    assert cli.main(["plans", "adopt", str(sites["north"].path), "901", "--from", peer]) != 0

    assert words in capsys.readouterr().err


def test_pool_refuses_bins_that_tell_too_much(sites, capsys):
    """Two cases in a bin are too few, whoever asks for it."""
    code = cli.main(["plans", "pool", str(sites["north"].path), "901", "--least", "2"])

    assert code == 2
    assert "--least is 2, expected at least 3" in capsys.readouterr().err


def test_the_site_may_be_the_one_of_the_environment(here, sites, monkeypatch, capsys):
    """As with `check`: what a training reads is what is meant where nothing is typed."""
    monkeypatch.setenv("nnUNet_gml_site", str(sites["north"].path))

    assert cli.main(["plans", "offer", DATASET, CONFIGURATION]) == 0
    assert "plans adopt SITE_TOML DATASET --from north" in capsys.readouterr().out
