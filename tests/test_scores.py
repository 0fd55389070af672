"""The table of a simulation, by hand."""

import json
import math
import shutil

import numpy as np
import pytest
import SimpleITK

from nnunet_gml.simulation.recipe import STOCK, Arm
from nnunet_gml.simulation.scores import (
    Score,
    Table,
    bytes_collected,
    evaluate,
    mean_dice,
    patients_of,
    read_scores,
    write_scores,
)
from nnunet_gml.simulation.workspace import SiteSpace

SCORES = (
    Score("a", "nnUNetTrainer", "1", "organ", 0.6),
    Score("a", "nnUNetTrainer", "1", "other", math.nan),
    Score("a", "nnUNetTrainer", "2", "organ", 0.8),
    Score("a", "nnUNetTrainer", "2", "other", 1.0),
    Score("a", "nnUNetTrainerGML", "1", "organ", 0.9),
    Score("b", "nnUNetTrainer", "1", "organ", 0.5),
)


@pytest.fixture
def table():
    """Two sites, two arms; site b has not finished the second one."""
    arms = (Arm(STOCK, STOCK), Arm("nnUNetTrainerGML", "nnUNetTrainerGML"))
    return Table(
        ("a", "b"), arms, SCORES, {("a", "nnUNetTrainerGML"): 2_500_000, ("b", "nnUNetTrainerGML"): 0}
    )


def test_mean_dice_by_hand():
    """Case 1: 0.6 (the other class is in neither contour). Case 2: (0.8 + 1.0) / 2 = 0.9. Mean 0.75."""
    assert mean_dice(SCORES[:4]) == pytest.approx(0.75)


def test_mean_of_nothing_is_nan():
    """No score, no number."""
    assert math.isnan(mean_dice([]))


def test_equal_case_names_of_two_sites_are_two_cases(table):
    """All stock cases: (0.6 + 0.9 + 0.5) / 3 = 0.6667, though two of them are named 1."""
    assert table.dice(None, "nnUNetTrainer") == pytest.approx(2 / 3)


def test_rows(table):
    """Site a gains 0.9 - 0.75 = 0.15 for 2.5 MB; site b has a dash where it has no score."""
    assert table.heads() == ["site", "nnUNetTrainer: Dice", "nnUNetTrainerGML: Dice", "MB moved", "gain"]
    assert table.rows()[0] == ["a", "0.7500", "0.9000", "2.5", "+0.1500"]
    assert table.rows()[1] == ["b", "0.5000", "-", "0.0", "-"]


def test_markdown(table):
    """A head, a rule, two sites and all sites."""
    lines = table.markdown().splitlines()

    assert len(lines) == 5
    assert lines[0].startswith("| site | ")
    assert {line.count("|") for line in lines} == {6}


TIME = "2026-11-22T08:00:00+00:00"


def test_bytes_collected_by_hand(tmp_path):
    """Only what was fetched counts: 100 + 20; what was offered, fetched by others, does not."""
    lines = [
        {"event": "offer", "bytes": 100},
        {"event": "collect", "bytes": 100, "verdict": "accepted"},
        {"event": "collect", "bytes": 20, "verdict": "refused"},
        {"event": "collect", "bytes": None, "verdict": "failed"},
    ]
    (tmp_path / "ledger.jsonl").write_text(
        "".join(json.dumps(line | {"time": TIME}) + "\n" for line in lines)
    )

    assert bytes_collected(tmp_path) == 120
    assert bytes_collected(tmp_path / "nowhere") == 0


def test_arms_are_compared_on_the_same_sites_only():
    """Site b, where the organ is hard, has not finished with gossip: no mean over all sites, no gain."""
    scores = tuple(
        Score(site, trainer, "1", "organ", dice)
        for site, trainer, dice in (("a", STOCK, 0.9), ("b", STOCK, 0.3), ("a", "G", 0.8))
    )
    table = Table(("a", "b"), (Arm(STOCK, STOCK), Arm("G", "G")), scores, {("a", "G"): 0, ("b", "G"): 0})

    rows = {row[0]: row[1:] for row in table.rows()}

    assert rows["a"] == ["0.9000", "0.8000", "0.0", "-0.1000"]
    assert rows["b"] == ["0.3000", "-", "0.0", "-"]
    assert rows["all sites"] == ["0.6000", "-", "0.0", "-"]


def test_csv_is_tidy(tmp_path):
    """One row for each site, arm, case and class; reading it back gives the same scores."""
    score = Score("a", "nnUNetTrainer", "1", "organ", 0.6, "Ann")

    write_scores(tmp_path / "results.csv", [score])

    assert (tmp_path / "results.csv").read_text().splitlines() == [
        "site,arm,case,class,dice,patient",
        "a,nnUNetTrainer,1,organ,0.6,Ann",
    ]
    assert read_scores(tmp_path / "results.csv") == [score]


def test_an_arm_without_exchange_has_no_bytes_to_count():
    """Pooling moves images: a dash, also for all sites; gains are measured against the stock arm."""
    scores = (Score("a", "alone", "1", "organ", 0.5), Score("a", "pooled", "1", "organ", 0.75))
    table = Table(("a",), (Arm("alone", STOCK), Arm("pooled", STOCK)), scores, {})

    assert table.heads() == ["site", "alone: Dice", "pooled: Dice", "MB moved", "gain"]
    assert table.rows()[1] == ["all sites", "0.5000", "0.7500", "-", "+0.2500"]


def test_patients_come_from_their_file(tmp_path):
    """Two cases of one patient; without the file nothing is known."""
    assert patients_of(tmp_path) == {}

    (tmp_path / "patients.csv").write_text("case,patient\nc1,Ann\nc2,Ann\n")

    assert patients_of(tmp_path) == {"c1": "Ann", "c2": "Ann"}


@pytest.fixture
def predicted_site(tmp_path):
    """One held-out case c: 4 voxels of an organ, 2 of which are predicted by T, and 1 more."""
    site = SiteSpace("a", tmp_path / "Dataset001_A", tmp_path / "site")
    reference, predicted = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    reference[0, 0, :] = 1
    predicted[0, 0, :2] = 1
    predicted[1, 0, 0] = 1
    for folder, voxels in ((site.raw / "labelsTs", reference), (site.predictions("T"), predicted)):
        folder.mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(folder / "c.nii.gz"))
    description = {"labels": {"background": 0, "organ": 1, "other": 2}, "file_ending": ".nii.gz"}
    (site.raw / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "MRI"}}))
    return site


def test_evaluation_by_hand(predicted_site):
    """Reference 4 voxels, prediction 2 of them and 1 more: Dice 2*2 / (4 + 3) = 4/7; the other is nan."""
    scores = evaluate(predicted_site, "T")

    assert [(s.case, s.class_name) for s in scores] == [("c", "organ"), ("c", "other")]
    assert scores[0].dice == pytest.approx(4 / 7)
    assert math.isnan(scores[1].dice)


@pytest.mark.parametrize("folder", ["labelsTs", "predictions"])
def test_a_prediction_that_was_interrupted_is_no_result(predicted_site, folder):
    """A second held-out case without a prediction, or a prediction of a case that is not held out."""
    place = predicted_site.raw / folder if folder == "labelsTs" else predicted_site.predictions("T")
    shutil.copyfile(place / "c.nii.gz", place / "d.nii.gz")

    assert evaluate(predicted_site, "T") == []


def test_equal_case_names_of_two_sites_are_two_patients(predicted_site):
    """Without a file of patients, a patient is a case of one site; with one, what stands there."""
    assert {score.patient for score in evaluate(predicted_site, "T")} == {"a/c"}

    (predicted_site.raw / "patients.csv").write_text("case,patient\nc,Ann\n")

    assert {score.patient for score in evaluate(predicted_site, "T")} == {"Ann"}
