"""What the sites of a federation said of themselves, in the report: their own words, if there are any."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from comparison_kit import TRUTH, dataset, off_by, write_cases
from courier_kit import build_sites
from report_kit import ORGANS, OURS, SITES, compare

from nnunet_gml.cli import main
from nnunet_gml.commands.compare_site import at_site, site_of
from nnunet_gml.comparison.runs import find_predicted
from nnunet_gml.explanation import ROUNDS_FILE
from nnunet_gml.report.own_words import TITLE, collected, last_training, own_words
from nnunet_gml.report.page import write_report
from nnunet_gml.report.study import Study
from peer_sync.figures import read_figures
from peer_sync.site import SITE_VARIABLE

DICE = dict.fromkeys(ORGANS, 0.5)


def say(folder: Path, site: str, *changes: dict[str, object]) -> None:
    """What one site's offers said, as the courier keeps it: a round for each."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "site": site,
            "sequence": number,
            "created": f"2026-11-22T10:{number:02d}:00Z",
            "round": number,
            "epoch": 10 * number,
            "plans_digest": "a" * 64,
            "federation_version": 1,
            "labelled": list(ORGANS),
            "cases": 12,
            "dice": DICE,
        }
        | change
        for number, change in enumerate(changes, 1)
    ]
    (folder / "figures" / f"{site}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two sites, two methods; nothing was said yet."""
    return compare(tmp_path_factory.mktemp("words"))


def study_at(found, folder: Path, *members: str) -> Study:
    """At the first of the members, who collects into the folder."""
    federation = SimpleNamespace(members=[SimpleNamespace(name=name) for name in members])
    site = SimpleNamespace(name=members[0], folder=folder, federation=federation)
    return Study(found.predicted, found.scores, found.summary, "", site=site)


def rows(section, place: int) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in section.blocks[place].rows}


def test_nothing_said_is_no_section(found, tmp_path):
    """Neither a heading nor an apology."""
    assert own_words(study_at(found, tmp_path, "north", "east")) == []
    path = tmp_path / "report.html"
    write_report(path, found.predicted, found.scores, found.summary, "x")
    assert TITLE not in path.read_text()


def test_every_site_has_a_curve_and_its_last_figures(found, tmp_path):
    """Mean of five organs at 0.5, then 0.75; in the order of the federation, this site marked."""
    say(tmp_path, "north", {}, {"dice": dict.fromkeys(ORGANS, 0.75)})
    say(tmp_path, "east", {"labelled": list(ORGANS[:2]), "dice": {ORGANS[0]: 0.25, ORGANS[1]: 0.75}})

    (section,) = own_words(study_at(found, tmp_path, "north", "east", "south"))

    panels = section.blocks[0].panels
    assert [panel.title for panel in panels] == ["north (this site)", "east"]
    assert "round 1: 0.500" in panels[0].svg and "at the end: 0.750" in panels[0].svg
    assert rows(section, 1)["north (this site)"][2:] == ["2", "20", "12", "0.750"]
    assert rows(section, 1)["east"] == ["1", "2026-11-22 10:01 UTC", "1", "10", "12", "0.500"]
    assert rows(section, 2)[ORGANS[0]] == ["0.750", "0.250"]
    assert rows(section, 2)[ORGANS[4]] == ["0.750", "not contoured"]
    assert "Nothing is known of south." in section.blocks[1].caption


def test_it_is_said_whose_numbers_they_are(found, tmp_path):
    """Their own, about their own cases, and that nobody has checked them."""
    say(tmp_path, "east", {})

    (section,) = own_words(study_at(found, tmp_path, "north", "east"))

    for words in ("As site north has collected it", "a site's own", "nobody has checked", "not the held-out"):
        assert words in section.lead


def test_withheld_is_said_and_not_drawn(found, tmp_path):
    """Dice by one site, the number of cases by another."""
    say(tmp_path, "east", {"dice": None})
    say(tmp_path, "south", {"cases": None})

    (section,) = own_words(study_at(found, tmp_path, "north", "east", "south"))

    assert [panel.title for panel in section.blocks[0].panels] == ["south"]
    assert "No Dice is known of east." in section.blocks[0].caption
    assert rows(section, 1)["east"][-1] == "withheld" == rows(section, 1)["south"][-2]
    assert rows(section, 2)[ORGANS[0]] == ["withheld", "0.500"]


def test_only_the_last_training_counts(tmp_path):
    """Where epochs fall another one begins: 50, 100, then 50 again."""
    say(tmp_path, "east", {"epoch": 50}, {"epoch": 100}, {"epoch": 50, "round": 1})

    assert [each.sequence for each in last_training(read_figures(tmp_path))] == [3]


def test_a_site_that_left_is_left_out(found, tmp_path):
    """As in `federation figures`: the table is about who takes part."""
    say(tmp_path, "east", {})
    say(tmp_path, "west", {})

    (section,) = own_words(study_at(found, tmp_path, "north", "east"))

    assert list(rows(section, 1)) == ["east"]


def test_many_sites_stand_in_several_tables(found, tmp_path):
    """Eight beside each other; twelve curves, and a word about the rest."""
    names = [f"site-{number:02d}" for number in range(14)]
    for name in names:
        say(tmp_path, name, {})

    (section,) = own_words(study_at(found, tmp_path, *names))

    assert [len(block.heads) for block in section.blocks[2:]] == [9, 7]
    assert len(section.blocks[0].panels) == 12
    assert "2 more sites are in the tables only" in section.blocks[0].caption


def test_other_plans_are_mentioned(found, tmp_path):
    """Their figures stand there, but networks differ."""
    say(tmp_path, "north", {})
    say(tmp_path, "east", {"plans_digest": "b" * 64})

    (section,) = own_words(study_at(found, tmp_path, "north", "east"))

    assert "not all train the same plans" in section.blocks[1].caption


def test_a_simulation_shows_what_its_sites_have_collected(tmp_path):
    """Of the method looked at closely, from all of them together, every offer once."""
    found = compare(tmp_path)
    for each in found.predicted:
        if each.mail:
            say(each.mail, "east", {})
            say(each.mail, each.site, {}, {})

    (section,) = own_words(Study(found.predicted, found.scores, found.summary, ""))

    assert section.lead.startswith(f"{OURS}: as these sites have collected it.")
    assert [row[0] for row in rows(section, 1).values()] == ["2", "2"] and set(rows(section, 1)) == set(SITES)


def test_several_federations_are_not_mixed(tmp_path):
    """Two runs compared: both have a site north, and its first offers differ."""
    say(tmp_path / "one", "north", {})
    say(tmp_path / "two", "north", {"cases": 13})

    assert collected([tmp_path / "one", tmp_path / "one"]) is not None
    assert collected([tmp_path / "one", tmp_path / "two"]) is None


def test_words_of_others_are_text(found, tmp_path):
    """Names of classes come from them: nothing in them is markup."""
    hostile = "x</title><script>alert(1)</script>"
    say(tmp_path, "east", {"labelled": [hostile], "dice": {hostile: 0.5}})
    study, path = study_at(found, tmp_path, "north", "east"), tmp_path / "report.html"

    write_report(path, found.predicted, found.scores, found.summary, "x", site=study.site)

    page = path.read_text()
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(1)" in page


def write_folds(folder: Path) -> Path:
    """A real site's: stock, and a training that met peers; nothing of anybody else."""
    references = write_cases(folder / "gt", {"a": TRUTH, "b": TRUTH})
    for trainer, made in (("nnUNetTrainer", off_by(2)), ("nnUNetTrainerGML", off_by(1))):
        fold = folder / "results" / "Dataset042_Head_Neck" / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
        write_cases(fold / "validation", {"a": made, "b": made})
        (fold.parent / "dataset.json").write_text(json.dumps(dataset()))
        files = [{"reference_file": str(references / "a.nii.gz")}]
        (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": files}))
    (fold / ROUNDS_FILE).touch()
    return folder / "results"


def test_a_real_site_sees_the_federation_beside_its_own_folds(tmp_path, capsys):
    """`nnunet-gml compare FOLDER --site`: its own gain, and what the others said."""
    north = build_sites(tmp_path, ("east", "north"))["north"]
    say(north.folder, "east", {"labelled": ["big"], "dice": {"big": 0.125}})
    results, out = write_folds(tmp_path), tmp_path / "out"

    assert main(["compare", str(results), "--out", str(out), "--jobs", "1", "--site", str(north.path)]) == 0

    page = (out / "report.html").read_text()
    assert TITLE in page and "As site north has collected it" in page and "0.125" in page


def test_the_site_of_the_environment_counts_where_peers_were_met(tmp_path, monkeypatch):
    """A comparison of anything else has nothing to do with it; its ledger goes to the one training."""
    north = build_sites(tmp_path, ("east", "north"))["north"]
    predicted = find_predicted([write_folds(tmp_path)])
    stock = [each for each in predicted if each.is_stock]
    monkeypatch.setenv(SITE_VARIABLE, str(north.path))

    assert site_of(None, stock) is None
    site = site_of(None, predicted)

    assert site is not None and site.name == "north"
    assert {each.arm: each.mail for each in at_site(predicted, site)} == {
        "nnUNetTrainer": None,
        "nnUNetTrainerGML": north.folder,
    }
    assert [each.mail for each in at_site([*predicted, *predicted], site)] == [None] * 4
