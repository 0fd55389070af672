"""benchmarks/evidence.py: the figures and tables of several seeds, by hand."""

import json
import math
from pathlib import Path

import pytest

from nnunet_gml.simulation.recipe import parse_arm
from nnunet_gml.simulation.scores import Score, write_scores

TRAINERS = [
    "alone=nnUNetTrainer",
    "pooled",
    "fedavg=nnUNetTrainerFedAvg",
    "mutual=nnUNetTrainerGML",
]


def write_run(folder, seed, dice, finished=("a", "b")):
    """A run folder with two sites, one held-out case each, classes big and tiny.

    ``dice``: per arm and site, of the two classes.
    """
    folder.mkdir(parents=True)
    scores = [
        Score(site, arm, f"case-{site}", name, value, f"patient-{site}{seed}")
        for arm, sites in dice.items()
        for site, values in sites.items()
        if site in finished or arm != "mutual"
        for name, value in zip(("big", "tiny"), values, strict=True)
    ]
    write_scores(folder / "results.csv", scores)
    record = {
        "recipe": {"trainers": TRAINERS, "device": "cpu", "epochs": 2},
        "sites": {"a": "", "b": ""},
        "moved_bytes": {
            "alone": {"a": 0, "b": 0},
            "pooled": {"a": None, "b": None},
            "fedavg": {"a": 3_000_000, "b": 3_000_000},
            "mutual": {"a": 1_000_000, "b": 2_000_000},
        },
        "steps": [
            {"title": "train mutual, sites side by side", "arm": "mutual", "seconds": 60.0, "run": True},
            {"title": "train mutual, sites side by side", "arm": "mutual", "seconds": 30.0, "run": True},
            {"title": "predict the held-out cases", "arm": "mutual", "seconds": 500.0, "run": True},
        ],
        "versions": {"torch": "1"},
        "prediction": "without mirroring",
        "threads_per_training": 1,
    }
    (folder / "run.json").write_text(json.dumps(record))


DICE = {
    "alone": {"a": (0.6, 0.2), "b": (0.5, math.nan)},
    "pooled": {"a": (0.9, 0.9), "b": (0.9, 0.9)},
    "fedavg": {"a": (0.6, 0.4), "b": (0.5, 0.5)},
    "mutual": {"a": (0.8, 0.4), "b": (0.4, 0.8)},
}


@pytest.fixture
def results(bench, tmp_path):
    """Two seeds; with the second one, site b has not finished mutual."""
    write_run(tmp_path / "seed-1", 1, DICE)
    write_run(tmp_path / "seed-2", 2, DICE, finished=("a",))
    numbers = bench("evidence_numbers")
    folders = [(seed, tmp_path / f"seed-{seed}") for seed in (1, 2, 3)]
    return numbers.Results(numbers.read_runs(folders))


def test_mean_dice_by_hand(results):
    """Alone: case a 0.4, case b 0.5 (tiny is nowhere), mean 0.45; of tiny, case a only: 0.2."""
    assert results.dice("alone") == pytest.approx(0.45)
    assert results.dice("alone", "b") == pytest.approx(0.5)
    assert results.dice("alone", None, ["tiny"]) == pytest.approx(0.2)
    assert math.isnan(results.dice("unheard of"))


def test_an_arm_counts_where_every_site_has_finished(results):
    """Mutual: seed 1 only, (0.6 + 0.6) / 2; a run that is not there is no seed."""
    assert results.seeds("alone") == (1, 2)
    assert results.seeds("mutual") == (1,)
    assert results.dice("mutual") == pytest.approx(0.6)


def test_gain_is_paired_by_case_and_class(results):
    """a: 0.6 - 0.4 = 0.2; b: only the class that both have, 0.4 - 0.5 = -0.1; mean 0.05, two patients."""
    found = results.compare("mutual", "alone")

    assert found.gain == pytest.approx(0.05)
    assert found.patients == 2
    assert results.worst_gain("mutual", "alone") == ("b", pytest.approx(-0.1))


def test_bytes_and_seconds_by_hand(results):
    """1 + 2 MB; 60 + 30 s of training, prediction apart; pooling has nothing to count."""
    assert results.moved_bytes("mutual") == 3e6
    assert math.isnan(results.moved_bytes("pooled"))
    assert results.training_seconds("mutual") == 90


def test_share_of_fedavgs_bytes(bench, results):
    """3 of 6 MB are 50 %. Two sites: a server would move 2N = 4 files, not N(N - 1) = 2, so 25 % of that."""
    rows = [line.split(" | ") for line in bench("evidence_page").arm_table(results).splitlines()]

    mutual = next(row for row in rows if row[0] == "| mutual")
    assert mutual[rows[0].index("MB") :][:3] == ["3.0", "50%", "25%"]


def test_share_of_the_missing_organ(bench, results):
    """Tiny at site a: 0.4 of mutual and 0.2 of the reference (alone): 200 %."""
    table = bench("evidence_page").missing_table(results, results, "a", "tiny")

    mutual = next(line for line in table.splitlines() if line.startswith("| mutual"))
    assert mutual == "| mutual | 0.4000 | 200% | 0.8000 |"


def test_page_keeps_notes_and_names_what_is_missing(bench, tmp_path):
    """What people wrote below the heading survives; arms that were not run, or not finished, are named."""
    plans, page = bench("evidence_plans"), bench("evidence_page")
    write_run(tmp_path / "runs" / "seed-1", 1, DICE, finished=("a",))
    target = tmp_path / "page.md"
    target.write_text(f"old\n\n{page.NOTES}\n\nA merge at once was worse.\n")

    page.write_page(target, plans.EXPERIMENTS["headneck"], tmp_path / "runs", [1], "the command")

    text = target.read_text()
    assert text.endswith(f"{page.NOTES}\n\nA merge at once was worse.\n")
    assert "Not finished at every site: mutual." in text
    assert "gossipavg" in text
    assert "real contours, synthetic intensities" in text.lower()
    assert "old" not in text.split("\n")


def test_page_without_any_run(bench, tmp_path):
    """It says so, and is no error."""
    plans, page = bench("evidence_plans"), bench("evidence_page")

    page.write_page(tmp_path / "page.md", plans.EXPERIMENTS["partial"], tmp_path, [1], "the command")

    assert "Nothing has finished yet" in (tmp_path / "page.md").read_text()


def test_every_arm_can_be_read(bench):
    """The short names stand for arms of these names; reduced lists name no other."""
    plans = bench("evidence_plans")

    assert all(parse_arm(words).name == name for name, words in plans.ARMS.items())
    assert all(set(part.arms) <= set(plans.ARMS) for e in plans.EXPERIMENTS.values() for part in e.parts)


def test_one_call_per_arm_and_seed(bench, tmp_path, monkeypatch):
    """Partial: the arms asked for on the data without an organ, then the reference on all labels."""
    evidence = bench("evidence")
    calls = []
    monkeypatch.setattr(bench("evidence_plans"), "write_dataset", fake_dataset)
    monkeypatch.setattr(
        evidence.subprocess,
        "run",
        lambda words, check: calls.append(words) or type("R", (), {"returncode": 3}),
    )
    words = ["partial", "--arms", "mutual", "--seeds", "4", "--epochs", "2"]

    code = evidence.main([*words, "--out", str(tmp_path), "--page", str(tmp_path / "pages")])

    assert code == 1
    assert [call[call.index("--arm") + 1] for call in calls] == [
        "mutual=nnUNetTrainerGML",
        "individual=nnUNetTrainer",
    ]
    outs = [Path(call[call.index("--out") + 1]).name for call in calls]
    assert outs == ["seed-4", "seed-4-all-labels"]
    assert "north=parotids" in calls[0]
    assert "--unlabelled" not in calls[1]
    assert all(call[-3:] == ["--epochs", "2", "--continue"] for call in calls)


def fake_dataset(folder, number, site, seed, training_cases, test_cases):
    """A raw dataset without any image."""
    made = folder / f"Dataset{number}_{site}"
    made.mkdir(parents=True)
    return made
