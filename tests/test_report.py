"""The report of a comparison: what it says, what it leaves out, and that nobody's name is obeyed."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from report_kit import CASES, ORGANS, OURS, STOCK, compare, write_training

from nnunet_gml.comparison.summary import summarise
from nnunet_gml.report.blocks import Cell, Section, cell
from nnunet_gml.report.curves import smoothed
from nnunet_gml.report.headline import cards, sentence
from nnunet_gml.report.organs import organs
from nnunet_gml.report.page import write_report
from nnunet_gml.report.sites import sites
from nnunet_gml.report.study import Study
from nnunet_gml.report.traffic import traffic, troubles
from nnunet_gml.training_log import planned_epochs, read_epochs

HOSTILE = "x</title></script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two sites, two methods."""
    found = compare(tmp_path_factory.mktemp("study"))
    return Study(found.predicted, found.scores, found.summary, "nnunet-gml compare run")


def page_of(folder, **changes):
    found = compare(folder, **changes)
    write_report(
        folder / "report.html", found.predicted, found.scores, found.summary, "nnunet-gml compare run"
    )
    return (folder / "report.html").read_text()


def rows(section: Section, place: int = 0) -> list[list[str]]:
    return [[each.text for each in row] for row in section.blocks[place].rows]


def test_the_headline_is_the_gain_with_its_interval(study):
    """Every case gains 0.02: so does the mean, and both ends of its interval."""
    gain = cards(study)[0]

    assert (gain.figure, gain.tone) == ("+0.020", "good")
    assert gain.note.startswith("95 % interval +0.020 to +0.020, 6 patients")
    assert sentence(study) == f"With {OURS} Dice was higher than with {STOCK}."


def test_a_gain_that_the_rank_test_does_not_share_is_not_claimed(study):
    """The mean may rest on a few patients."""
    study.summary.arms.loc[study.summary.arms["arm"] == OURS, "p"] = 0.4
    try:
        assert "whether for most patients is not clear (rank test, p = 0.400)" in sentence(study)
    finally:
        study.summary.arms.loc[study.summary.arms["arm"] == OURS, "p"] = 0.03125


def test_cost_is_bytes_and_minutes(study):
    """Three offers of 2 MB at each site; 12 epochs of 30 s are 6 min with either method."""
    costs = {card.title: card for card in cards(study)}

    assert costs["network weights fetched"].figure == "6.0 MB"
    assert costs["training time per site"].figure == "6.0 min"
    assert costs["training time per site"].note == f"1.0 times the 6.0 min of {STOCK}"


def test_fedavg_without_a_server_fetches_from_all_others(tmp_path):
    """Three rounds of 2 MB: 6 MB with a server; from each of two other sites, 12 MB."""
    found = compare(tmp_path, ("north", "east", "south"))
    drawn = traffic(Study(found.predicted, found.scores, found.summary, "")).blocks[0].panels[0].svg

    assert f"{OURS}: 6.0 MB" in drawn
    assert "FedAvg with a server: 6.0 MB" in drawn
    assert "FedAvg without a server: 12.0 MB" in drawn


def test_refusals_are_listed_with_rule_and_sentence(study):
    """One kind at each site."""
    section = troubles(study)

    assert rows(section)[0][:5] == ["north", OURS, "3", "1", "0"]
    assert rows(section, 1) == [
        ["north", OURS, "east", "norm", "1", "4", "from east: no"],
        ["east", OURS, "north", "norm", "1", "4", "from north: no"],
    ]


def test_the_curve_starts_at_the_first_number():
    """0.7 of the last value and 0.3 of the new: 0.7 * 1 + 0.3 * 0 = 0.7."""
    assert smoothed([float("nan"), 1.0, 0.0])[1:] == [1.0, 0.7]


def test_a_section_without_data_says_so(tmp_path):
    """Predictions alone: no curves, no meetings, no bytes, no pictures; one sentence for each."""
    page = page_of(tmp_path, with_runs=False)

    for words in (
        "no learning curves",
        "nobody met anybody",
        "the bytes are not known",
        "No images were found",
    ):
        assert words in page
    assert len(re.findall(r'<p class="absent">', page)) == 5


def test_pictures_can_be_left_out(tmp_path):
    """A report for others may hold no image of a patient."""
    found = compare(tmp_path)
    write_report(tmp_path / "r.html", found.predicted, found.scores, found.summary, "x", shown_cases=0)

    assert "data:image" not in (tmp_path / "r.html").read_text()


def test_an_organ_that_nobody_finds_is_named_not_drawn(tmp_path):
    """It has no spread to look at; the table has its zeros. One that a single method finds is drawn."""
    found = compare(tmp_path)
    missed = found.scores["class"].eq("eyes")
    rare = found.scores["class"].eq("mandible") & found.scores["arm"].eq(STOCK)
    found.scores.loc[missed | rare, "dice"] = 0.0
    summary = summarise(found.scores, STOCK, dict.fromkeys(ORGANS, 2.0))

    section = organs(Study(found.predicted, found.scores, summary, "nnunet-gml compare run"))

    figure, table = section.blocks[:2]
    assert {panel.title for panel in figure.panels} == set(ORGANS) - {"eyes"}
    assert figure.caption == "No method finds eyes. "
    assert {row[0].text for row in table.rows} == set(ORGANS)


def test_every_network_at_every_site_is_a_table(study):
    """Diagonal: each at home; 0.72 to 0.74 at north, 0.03 more at east; abroad a tenth less."""
    home = study.scores
    other = {"north": "east", "east": "north"}
    abroad = home.assign(trained_at=home["site"].map(other), dice=home["dice"] - 0.1)
    summary = summarise(pd.concat([home, abroad], ignore_index=True), STOCK)

    section = sites(Study(study.predicted, home, summary, ""))

    assert rows(section, 1) == [["north", "0.730", "0.660"], ["east", "0.630", "0.760"]]


def test_the_method_looked_at_closely_can_be_named(study):
    """Whatever its Dice is."""
    assert study.focus == OURS
    assert Study(study.predicted, study.scores, study.summary, "", asked_focus=STOCK).focus == STOCK


def test_names_of_others_are_text(tmp_path):
    """Sites, methods, organs and a peer's sentences: the only script is the page's own."""
    found = compare(
        tmp_path,
        sites=(f"a{HOSTILE}", f"b{HOSTILE}"),
        arms=(STOCK, f"g{HOSTILE}"),
        organs=(*ORGANS[:4], HOSTILE),
    )
    path = tmp_path / "report.html"
    write_report(path, found.predicted, found.scores, found.summary, f"compare {HOSTILE}")

    page = path.read_text()
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)") > 30


def test_every_picture_has_words_and_every_table_a_caption(tmp_path):
    """For those who cannot see it."""
    page = page_of(tmp_path)

    assert len(re.findall(r"<table>\s*<caption><span>[^<]{20,}", page)) == page.count("<table>") >= 7
    pictures = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', page)
    assert len(pictures) == page.count("<svg ")
    assert sum(len(words) > 20 for words in pictures) >= len(ORGANS) + 2 + 3 * len(CASES)


def test_a_page_needs_nothing_from_anywhere(tmp_path):
    """No address but those that name SVG's and the page's own parts, and a policy that forbids the rest."""
    page = page_of(tmp_path)

    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "default-src 'none'" in page.replace("&#39;", "'")


def test_a_continued_log_counts_an_epoch_once(tmp_path):
    """A second log begins again at epoch 10: what it has not reached yet is not there."""
    fold = tmp_path / "model" / "fold_0"
    write_training(fold, "east")
    again = (
        (fold / "training_log_2026_11_2_08_01_00.txt")
        .read_text()
        .split("Epoch 10")[1]
        .split("2026-11-22 08:01:11")[0]
    )
    (fold / "training_log_2026_11_10_09_00_00.txt").write_text(
        "x y: Epoch 10" + again.replace("-0.5", "-0.75")
    )

    epochs = read_epochs(fold)

    assert [each.number for each in epochs] == list(range(11))
    assert epochs[-1].train_loss == -0.75 and epochs[-1].mean_dice == 0.5
    assert planned_epochs(fold) == 20


def test_a_cell_without_a_number_sorts_last():
    """A dash is no number: the page's script puts it behind."""
    assert cell(float("nan")) == Cell("\N{EN DASH}", None)
