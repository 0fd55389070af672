"""A whole simulation, through nnU-Net's own commands: minutes."""

import csv
import json
import math
import warnings

import pytest

from nnunet_gml.phantom import write_dataset
from nnunet_gml.simulate import simulate
from nnunet_gml.simulation.workspace import Recipe


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_sites_from_raw_data_to_the_table(tmp_path):
    """Stock and gossip, two sites, three epochs: every file is there, and --continue repeats nothing."""
    warnings.simplefilter("ignore")  # other people's imports warn
    raw = [write_dataset(tmp_path, 801 + n, site, 1, 5, 1) for n, site in enumerate(("north", "east"))]
    recipe = Recipe(
        datasets=tuple(map(str, raw)),
        trainers=("nnUNetTrainer", "nnUNetTrainerGML"),
        epochs=3,
        iterations=2,
        seed=1,
        patch_size=(16, 16, 16),
        features=(4, 8, 8),
        batch_size=2,
        warmup_epochs=1,
        epochs_per_round=1,
        mutual_epochs=1,
    )
    out = tmp_path / "out"

    code = simulate(recipe, out)
    again = simulate(recipe, out, continued=True)

    assert (code, again) == (0, 0)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 1 * 5
    assert all(math.isnan(float(row["dice"])) or 0 <= float(row["dice"]) <= 1 for row in rows)
    record = json.loads((out / "run.json").read_text())
    assert record["failed"] == []
    assert [step["run"] for step in record["steps"]] == [True] * 7 + [False] * 7
    assert (out / "sites" / "north" / "mail" / "ledger.jsonl").exists()
    assert (out / "sites" / "north" / "nnUNet_raw" / "Dataset801_north").is_symlink()
