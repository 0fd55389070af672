"""A whole simulation, through nnU-Net's own commands: minutes."""

import csv
import json
import math
import warnings

import pytest

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
