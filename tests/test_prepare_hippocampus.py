"""examples/hippocampus/prepare.py: one subject, one side."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "hippocampus" / "prepare.py"


@pytest.fixture(scope="module")
def prepare():
    """The script as a module."""
    if not SCRIPT.exists():
        pytest.skip("the examples are not beside these tests")
    specification = importlib.util.spec_from_file_location("prepare_hippocampus", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_division_by_hand(prepare):
    """20 subjects: 30 % held out = 6; of the other 14, a fifth (2.8, so 3) validates, 11 train."""
    division = prepare.divide([f"s{n:02d}" for n in range(20)], seed=1)

    assert [len(g) for g in (division.training, division.validation, division.test)] == [11, 3, 6]
    assert len({*division.training, *division.validation, *division.test}) == 20


def test_caps(prepare):
    """At most 10 subjects not held out (8 train, 2 validate) and 4 held out."""
    division = prepare.divide([f"s{n:02d}" for n in range(20)], seed=1, max_training=10, max_test=4)

    assert [len(g) for g in (division.training, division.validation, division.test)] == [8, 2, 4]


def test_missing_data_are_no_error(prepare, tmp_path, monkeypatch, capsys):
    """Without the data the script says that it is skipped, and ends well."""
    monkeypatch.setenv("GML_DATA", str(tmp_path))

    code = prepare.main(["--out", str(tmp_path / "raw")])

    assert code == 0
    assert capsys.readouterr().out.startswith("skipped: ")


def test_real_subjects_stay_together(prepare, tmp_path):
    """In the real data no subject is on two sides, and the split file knows training cases only."""
    data = prepare.data_folder()
    if not (data / "sites.csv").is_file():
        pytest.skip(f"no Hippocampus data in {data}")
    with (data / "sites.csv").open(newline="") as file:
        subject_of = {row["case"]: row["subject"] for row in csv.DictReader(file)}

    prepare.main(["--out", str(tmp_path), "--sites", "A_u8", "--max-training", "8", "--max-test", "3"])

    raw = tmp_path / "Dataset501_A_u8"
    (fold,) = json.loads((raw / "splits_final.json").read_text())
    held_out = [path.name.removesuffix(".nii.gz") for path in (raw / "labelsTs").iterdir()]
    groups = [{subject_of[case] for case in cases} for cases in (fold["train"], fold["val"], held_out)]
    assert [len(group) for group in groups] == [6, 2, 3]
    assert len(set.union(*groups)) == 11
    with (raw / "patients.csv").open(newline="") as file:
        assert all(subject_of[row["case"]] == row["patient"] for row in csv.DictReader(file))
    training = {path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir()}
    assert training == {*fold["train"], *fold["val"]}
