"""`nnunet-gml compare`: from finished runs to tables and a report."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from comparison_kit import BIG, TRUTH, draw, off_by, write_simulated

from nnunet_gml.cli import main
from nnunet_gml.comparison.measures import COLUMNS
from nnunet_gml.comparison.summary import summarise
from nnunet_gml.comparison.tables import as_json, markdown, write_scores
from nnunet_gml.comparison.tolerances import read_tolerances
from nnunet_gml.simulation.scores import evaluate
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError

ARMS = {
    "alone=nnUNetTrainer": {"north": {"n1": off_by(2), "n2": draw((1, BIG))}, "south": {"s1": off_by(1)}},
    "mutual=nnUNetTrainerGML": {"north": {"n1": TRUTH, "n2": off_by(1)}, "south": {"s1": off_by(2)}},
    "alone@south": {"north": {"n1": off_by(3), "n2": off_by(3)}},
}
"""alone misses the tiny organ in n2."""


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A finished simulation of two sites and two arms."""
    return write_simulated(tmp_path / "run", ARMS)


@pytest.fixture
def compared(run_folder, tmp_path, capsys) -> tuple[Path, str]:
    """The folder with the results, and what the command said."""
    out = tmp_path / "out"
    assert main(["compare", str(run_folder), "--out", str(out), "--jobs", "1", "--no-report"]) == 0
    return out, capsys.readouterr().out


def test_every_row_is_in_the_csv_and_in_parquet(compared):
    """One row per site, arm, case and class, the same in both files; crossed predictions, too."""
    pytest.importorskip("pyarrow")
    out, _ = compared

    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * (3 + 3 + 2)
    pd.testing.assert_frame_equal(pd.read_csv(out / "scores.csv"), pd.read_parquet(out / "scores.parquet"))
    missed = next(row for row in rows if (row["arm"], row["case"], row["class"]) == ("alone", "n2", "tiny"))
    assert (missed["dice"], missed["hd95_mm"], missed["absent_predicted"]) == ("0.0", "", "True")


def test_dice_is_that_of_the_simulation(compared, run_folder):
    """What `simulate` has in its own table, by nnU-Net's evaluator."""
    ours = pd.read_csv(compared[0] / "scores.csv").query("site == trained_at")
    ours = ours.set_index(["site", "arm", "case", "class"])["dice"].to_dict()

    sites = [SiteSpace(path.name, raw, path) for raw, path in _places(run_folder)]
    theirs = [score for site in sites for arm in ("alone", "mutual") for score in evaluate(site, arm)]

    assert ours == {(s.site, s.arm, s.case, s.class_name): s.dice for s in theirs}


def _places(run_folder: Path) -> list[tuple[Path, Path]]:
    raw = json.loads((run_folder / "run.json").read_text())["sites"]
    return [(Path(raw[name]), run_folder / "sites" / name) for name in raw]


def test_the_summary_says_what_was_gained_and_what_not(compared):
    """For people and programs: by site, by class, small organs, matrix, absent organs, how it was made."""
    out, said = compared
    text, facts = (out / "summary.md").read_text(), json.loads((out / "summary.json").read_text())

    gains = {(row["site"], row["arm"]): row["gain"] for row in facts["sites"]}
    assert gains["north", "mutual"] > 0 > gains["south", "mutual"] and gains["north", "alone"] is None
    assert {row["class"]: row["small"] for row in facts["classes"]} == {"big": False, "tiny": True}
    assert {row["group"] for row in facts["groups"]} == {"small", "other"} and len(facts["matrix"]) == 3
    assert facts["baseline"] == "alone" and facts["tolerance_mm"] == {"big": 2.0, "tiny": 2.0}
    assert "| south | 0.958 | 0.917 (-0.042) |" in text
    assert "alone misses tiny in 1 of 3 cases" in text and "alone misses tiny" in said
    assert "nnunetv2 2." in text and f"written: {out / 'summary.md'}" in said


def test_a_report_is_written(run_folder, tmp_path, capsys):
    """One HTML file beside the tables, unless it is not wanted."""
    out = tmp_path / "out"

    assert main(["compare", str(run_folder), "--out", str(out), "--jobs", "1", "--small", "0.001"]) == 0

    assert (out / "report.html").read_text().lower().startswith("<!doctype html>")
    assert f"written: {out / 'report.html'}" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["groups"] == []


def test_without_pyarrow_there_is_a_csv_and_a_word(run_folder, tmp_path, capsys, monkeypatch):
    """Parquet is a convenience."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))

    assert main(["compare", str(run_folder), "--out", str(tmp_path), "--jobs", "1", "--no-report"]) == 0

    assert "no scores.parquet: pyarrow is not installed" in capsys.readouterr().out
    assert (tmp_path / "scores.csv").exists() and not (tmp_path / "scores.parquet").exists()


def test_tolerances_are_for_all_or_for_one_class():
    """The last one counts; unknown classes and lengths below 0 are errors that help."""
    assert read_tolerances([], ["a", "b"]) == {"a": 2.0, "b": 2.0}
    assert read_tolerances(["b=3", "1", "a=0"], ["a", "b"]) == {"a": 0.0, "b": 3.0}
    for word, said in (
        ("parotid=1", "no class 'parotid'"),
        ("a=-1", "'-1' is no length"),
        ("a=", "'' is no length"),
        ("nan", "'nan' is no length"),
        ("inf", "'inf' is no length"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_tolerances([word], ["a", "parotids"])


def test_what_names_say_cannot_break_the_page(tmp_path, compared):
    """Names of classes come from other people's files: no table border, no tag, no NaN in JSON."""
    scores = pd.read_csv(compared[0] / "scores.csv")
    scores["class"] = scores["class"].replace({"big": "a|b<script>\n# c"})
    summary = replace(summarise(scores, "alone"), notes=("<b>",))

    text = markdown(summary, "nnunet-gml compare")

    assert "| a\\|b&lt;script> # c |" in text and "<script>" not in text and "- &lt;b>" in text
    json.dumps(as_json(summary, "x"), allow_nan=False)
    write_scores(tmp_path, scores)
    assert pd.read_csv(tmp_path / "scores.csv")["class"].tolist() == scores["class"].tolist()


def test_an_unknown_arm_is_an_error_before_anything_is_measured(run_folder, tmp_path, capsys):
    """For the baseline and for the arm that the report looks at."""
    for option in ("--baseline", "--focus"):
        assert main(["compare", str(run_folder), "--out", str(tmp_path / "out"), option, "nobody"]) == 2
        assert f"{option}: there is no arm 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
