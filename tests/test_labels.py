"""Label names are the contract: what differs is said with the two names, the two sites and a way out."""

from __future__ import annotations

import pytest

from nnunet_gml.planning.labels import compare, compare_names
from nnunet_gml.planning.spelling import likely_pairs, likeness


def dataset(labels: dict, channels=("CT",), order=None) -> dict:
    """A dataset.json."""
    content = {"labels": {"background": 0, **labels}, "channel_names": dict(enumerate(channels))}
    return content if order is None else content | {"regions_class_order": order}


def kinds(own: dict, theirs: dict, **options) -> list[tuple[str, bool]]:
    """Kind and weight of every difference."""
    return [(found.kind, found.is_fatal) for found in compare(own, theirs, "north", "east", **options)]


def test_equal_datasets_have_no_differences():
    """Also where one writes the channels' numbers as text."""
    one = dataset({"brainstem": 1, "ignore": 2})
    other = {**one, "channel_names": {"0": "CT"}}

    assert compare(one, other, "north", "east") == []


@pytest.mark.parametrize("name", ["ParotidL", "parotid left", "left parotid", "PAROTID-L", "Parotid_Lt"])
def test_other_spellings_of_one_organ_are_recognised(name):
    """Case, separators, order of words and the short form of the side do not matter."""
    assert likeness("Parotid_L", name) == 1.0


@pytest.mark.parametrize("name", ["leftparotid", "Parotids_L", "Parotis_L"])
def test_what_is_nearly_the_same_is_asked_about(name):
    """A glued side, a plural, another language's ending."""
    assert likely_pairs(["Parotid_L"], [name]) == [("Parotid_L", name)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Parotid_L", "Parotid_R"),
        ("vertebra C1", "vertebra C2"),
        ("lens left", "lens right"),
        ("GTV_1", "GTV_12"),
        ("parotid", "Parotid_L"),
        ("kidney", "liver"),
        ("mandible", "brainstem"),
    ],
)
def test_different_organs_are_never_taken_for_each_other(one, other):
    """Sides and numbers tell organs apart, however alike the rest is."""
    assert likely_pairs([one], [other]) == []


def test_the_advice_on_a_misspelling_names_both_spellings():
    """And asks, since only people know whether it is the same organ."""
    (found,) = compare(dataset({"Parotid_L": 1}), dataset({"ParotidL": 1}), "north", "east")

    assert found.kind == "misspelt" and found.is_fatal
    assert found.found == "north has 'Parotid_L', east has 'ParotidL'"
    assert found.advice.startswith("Are 'Parotid_L' and 'ParotidL' the same organ?")


def test_each_name_is_suggested_once():
    """Two left glands here and one there: the more alike pair, and one that is missing."""
    found = compare_names(["Parotid_L", "Parotis L"], ["parotid left"], "north", "east")

    assert [difference.kind for difference in found] == ["misspelt", "missing"]
    assert "'Parotid_L'" in found[0].found and "'Parotis L'" in found[1].found


def test_a_missing_organ_is_declared_at_the_site_that_lacks_it():
    """Whichever of the two that is."""
    less, more = dataset({"brainstem": 1}), dataset({"brainstem": 1, "mandible": 2})

    (here,) = compare(less, more, "north", "east")
    (there,) = compare(more, less, "north", "east")

    assert here.kind == there.kind == "missing"
    assert "dataset.json of north" in here.advice and "labelled of north" in here.advice
    assert "dataset.json of east" in there.advice and "labelled of east" in there.advice


def test_other_numbers_are_fatal_only_where_numbers_count():
    """With classes listed by name in federation.toml they are permuted."""
    one, other = dataset({"cord": 1, "eye": 2}), dataset({"cord": 2, "eye": 1})

    assert kinds(one, other) == [("number", True)] * 2
    assert kinds(one, other, by_name=True) == [("number", False)] * 2


def test_other_region_definitions_are_fatal_even_by_name():
    """A region is its numbers."""
    one = dataset({"head": [1, 2], "cord": [2]}, order=[1, 2])
    other = dataset({"head": [1, 3], "cord": [2]}, order=[1, 2])

    assert kinds(one, other, by_name=True) == [("region", True)]


def test_the_order_of_a_regions_labels_does_not_matter_but_that_of_classes_does():
    """[1, 2] and [2, 1] are one region; regions_class_order decides what overwrites what."""
    one, other = dataset({"head": [1, 2]}, order=[1]), dataset({"head": [2, 1]}, order=[2])

    assert kinds(one, other) == [("region", True)]


def test_an_ignore_label_at_one_site_is_said():
    """Fatal where the digest covers numbers."""
    one, other = dataset({"cord": 1, "ignore": 2}), dataset({"cord": 1})

    assert kinds(one, other) == [("ignore", True)]
    assert kinds(one, other, by_name=True) == [("ignore", False)]


def test_channels_must_agree_in_name_and_order():
    """nnU-Net chooses the normalisation by the channel's name."""
    one, other = dataset({"cord": 1}, ("CT", "PET")), dataset({"cord": 1}, ("PET", "CT"))

    (found,) = compare(one, other, "north", "east")

    assert found.kind == "channel" and found.is_fatal
    assert "0: 'CT', 1: 'PET' at north" in found.found and "0: 'PET', 1: 'CT' at east" in found.found
