"""A whole simulation, through nnU-Net's own commands: minutes."""

import csv
import json
import math
import warnings

import pytest

from nnunet_gml.cli import main
from nnunet_gml.commands.simulate import simulate
from nnunet_gml.phantom import write_dataset
from nnunet_gml.simulation.recipe import Recipe


def small_recipe(folder, *trainers, **changes):
    """Two phantom sites and the least training that has two rounds."""
    raw = [write_dataset(folder, 801 + n, site, 1, 5, 1) for n, site in enumerate(("north", "east"))]
    return Recipe(
        datasets=tuple(map(str, raw)),
        trainers=trainers,
        epochs=3,
        iterations=2,
        seed=1,
        patch_size=(16, 16, 16),
        features=(4, 8, 8),
        batch_size=2,
        warmup_epochs=1,
        epochs_per_round=1,
        mutual_epochs=1,
        **changes,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_sites_from_raw_data_to_the_table(tmp_path):
    """Arms side by side, two sites, one organ missing: every file is there; --continue repeats nothing."""
    warnings.simplefilter("ignore")  # other people's imports warn
    trainers = ("alone=nnUNetTrainer", "ensemble", "nnUNetTrainerGML")
    recipe = small_recipe(tmp_path, *trainers, unlabelled=("north=eyes",))
    out = tmp_path / "out"

    code = simulate(recipe, out)
    again = simulate(recipe, out, continued=True)

    assert (code, again) == (0, 0)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 1 * 5
    assert all(math.isnan(float(row["dice"])) or 0 <= float(row["dice"]) <= 1 for row in rows)
    record = json.loads((out / "run.json").read_text())
    assert record["failed"] == []
    assert [step["run"] for step in record["steps"]] == [True] * 8 + [False] * 8
    assert (out / "sites" / "north" / "mail" / "ledger.jsonl").exists()
    assert (out / "sites" / "east" / "nnUNet_raw" / "Dataset802_east").is_symlink()
    assert not list(out.rglob("*.npz"))
    assert list((out / "sites" / "north" / "predictions" / "alone@east").glob("*.nii.gz"))
    moved = record["moved_bytes"]
    assert moved["alone"] == {"north": 0, "east": 0}
    assert moved["ensemble"]["north"] > 10_000
    assert record["trained"]["nnUNetTrainerGML"]["settings"]["warmup_epochs"] == 1
    assert len(record["trained"]["alone"]["machines"]) == 1
    rounds = record["rounds"]["nnUNetTrainerGML"]
    assert (rounds["due"], rounds["without_peer"].keys()) == (2, {"north", "east"})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_cases_in_one_place(tmp_path):
    """The pooled network predicts both sites' held-out cases; no bytes can be counted."""
    warnings.simplefilter("ignore")  # other people's imports warn
    out = tmp_path / "out"

    code = simulate(small_recipe(tmp_path, "pooled"), out)

    assert code == 0
    with (out / "results.csv").open(newline="") as file:
        assert {row["site"] for row in csv.DictReader(file)} == {"north", "east"}
    record = json.loads((out / "run.json").read_text())
    assert record["moved_bytes"]["pooled"] == {"north": None, "east": None}
    assert record["rounds"] == {}


SMALL = (
    "--epochs 4 --iterations 2 --warmup-epochs 1 --epochs-per-round 1 --mutual-epochs 1 "
    "--patch-size 16 16 16 --features 4 8 8 --batch-size 2"
)


@pytest.fixture
def raw(tmp_path):
    """One raw dataset: ten cases of the phantom; the first four show one patient."""
    written = write_dataset(tmp_path, 801, "north", 1, 10, 1)
    rows = "".join(f"north_{case:03d},p{max(case, 3)}\n" for case in range(10))
    (written / "patients.csv").write_text("case,patient\n" + rows)
    return written


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_dataset_two_sites_a_fault_and_a_launcher(tmp_path, raw):
    """Divided, shifted, in lock-step, each job through submitit; site 2 offers garbage from round 2 on.

    Three rounds are due (after epochs 1, 2 and 3). Site 1 lacks its peer in 2 and 3, site 2 never.
    """
    pytest.importorskip("submitit")
    out = tmp_path / "out"
    options = (
        "--split random --sites 2 --shift site02=noise=0.1,margin_mm=3 --fault site02=garbage:2 "
        "--clock lock-step --launcher local --launcher-option timeout_min=20 "
        "--trainer nnUNetTrainerFedAvg --trainer nnUNetTrainerGML"
    )

    code = main(["simulate", str(raw), *options.split(), *SMALL.split(), "--out", str(out)])

    assert code == 0
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"]["faults"] == ["site02=garbage:2"]
    assert record["failed"] == []
    lonely = {"site01": [2, 3], "site02": []}
    assert {arm: counted["without_peer"] for arm, counted in record["rounds"].items()} == {
        "nnUNetTrainerFedAvg": lonely,
        "nnUNetTrainerGML": lonely,
    }
    assert refused(out / "sites" / "site01" / "mail") == [(2, "sha256"), (3, "sha256")]
    assert refused(out / "sites" / "site02" / "mail") == []
    assert "raw-shifted" in record["sites"]["site02"]


def refused(mail):
    """Round and rule of everything that a site has refused."""
    lines = [json.loads(line) for line in (mail / "ledger.jsonl").read_text().splitlines()]
    return [(line["round"], line["rule"]) for line in lines if line["verdict"] == "refused"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_seeds_one_after_the_other(tmp_path, raw, capsys):
    """A run folder for each, other patients held out, one training at a time, and a table over both."""
    out = tmp_path / "out"
    options = "--split random --sites 2 --seeds 1 2 --side-by-side 1 --trainer nnUNetTrainer"

    code = main(["simulate", str(raw), *options.split(), *SMALL.split(), "--out", str(out)])

    assert code == 0
    assert "| nnUNetTrainer |" in (out / "table.md").read_text()
    assert "1, 2 |" in capsys.readouterr().out
    divisions = [(out / f"seed-{seed}" / "raw-split" / "division.csv").read_text() for seed in (1, 2)]
    assert divisions[0] != divisions[1]
