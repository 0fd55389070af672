"""The plans digest: what must agree, and what is each site's own."""

import copy

import pytest
from nnunet_kit import CONFIGURATION, plans_of

from nnunet_gml.planning.plans import check_agreement, class_names, plans_digest
from peer_sync.errors import ConfigError
from peer_sync.site import load_site


@pytest.fixture
def planned(phantom_data):
    """Plans and dataset.json as nnU-Net wrote them."""
    return copy.deepcopy(plans_of(phantom_data()))


def test_what_is_the_sites_own_does_not_count(planned):
    """Another name, another number of cases, another batch size: the same digest."""
    plans, dataset = planned
    before = plans_digest(plans, dataset, CONFIGURATION)

    plans["dataset_name"] = "Dataset777_elsewhere"
    plans["configurations"][CONFIGURATION]["batch_size"] = 4
    dataset |= {"numTraining": 99, "description": "site x", "name": "x"}

    assert plans_digest(plans, dataset, CONFIGURATION) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda p, d: p["configurations"]["3d_fullres"].update(spacing=[1.0, 2.0, 3.0]),
        lambda p, d: p["configurations"][CONFIGURATION].update(patch_size=[16, 16, 16]),
        lambda p, d: p["configurations"]["3d_fullres"].update(normalization_schemes=["CTNormalization"]),
        lambda p, d: p["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"].update(n_stages=2),
        lambda p, d: p["foreground_intensity_properties_per_channel"]["0"].update(mean=1.5),
        lambda p, d: p.update(transpose_forward=[1, 0, 2]),
        lambda p, d: d.update(channel_names={"0": "CT"}),
        lambda p, d: d["labels"].update(eyes=4, parotids=5),
    ],
    ids=["spacing", "patch", "normalisation", "architecture", "intensities", "axes", "channels", "labels"],
)
def test_what_must_agree_counts(planned, change):
    """Each alone changes the digest, inherited fields too."""
    before = plans_digest(*planned, CONFIGURATION)

    change(*planned)

    assert plans_digest(*planned, CONFIGURATION) != before


def test_the_order_of_regions_counts(planned):
    """nnU-Net gives regions their channels in the order of dataset.json: two orders would swap classes."""
    plans, dataset = planned
    dataset["regions_class_order"] = [1, 2]
    digests = []
    for names in (("whole", "core"), ("core", "whole")):
        regions = {"whole": [1, 2, 3], "core": [2, 3]}
        dataset["labels"] = {"background": 0, **{name: regions[name] for name in names}}
        digests.append(plans_digest(plans, dataset, CONFIGURATION))

    assert digests[0] != digests[1]


def test_unknown_configuration_is_named_with_the_known_ones(planned):
    """A typo in the configuration."""
    with pytest.raises(ConfigError, match=r"no configuration '3d_smal', but 2d, 3d_fullres, 3d_small"):
        plans_digest(*planned, "3d_smal")


def test_class_names_follow_the_output_channels():
    """Labels by their number, regions as they stand; neither background nor ignore."""
    labels = {"labels": {"b": 2, "background": 0, "a": 1, "ignore": 3}}
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "edge": 1}}

    assert class_names(labels) == ("a", "b")
    assert class_names(regions) == ("whole", "core", "edge")


def test_by_name_the_numbers_of_labels_are_each_sites_own(planned):
    """Numbered backwards, with or without an ignore label: the same digest by name, another one by number."""
    plans, dataset = planned
    digests = {True: set(), False: set()}
    names = [name for name in dataset["labels"] if name != "background"]
    for labels in (names, names[::-1], [*names[::-1], "ignore"]):
        dataset["labels"] = {"background": 0, **{name: n for n, name in enumerate(labels, 1)}}
        for by_name, found in digests.items():
            found.add(plans_digest(plans, dataset, CONFIGURATION, by_name))

    assert len(digests[True]) == 1
    assert len(digests[False]) == 3
    assert not digests[True] & digests[False]


def test_by_name_a_name_counts(planned):
    """Another organ is another federation, and so is any other change of the plans."""
    plans, dataset = planned
    before = plans_digest(plans, dataset, CONFIGURATION, by_name=True)
    patch = copy.deepcopy(plans)
    patch["configurations"][CONFIGURATION]["patch_size"] = [16, 16, 16]
    renamed = {"cord" if name == "spinal-cord" else name: n for name, n in dataset["labels"].items()}

    assert plans_digest(plans, {**dataset, "labels": renamed}, CONFIGURATION, by_name=True) != before
    assert plans_digest(patch, dataset, CONFIGURATION, by_name=True) != before


def test_regions_have_no_digest_by_name(planned):
    """Their channels follow dataset.json, and their content is made of numbers."""
    plans, dataset = planned
    dataset |= {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}

    with pytest.raises(ConfigError, match="regions") as error:
        plans_digest(plans, dataset, CONFIGURATION, by_name=True)
    assert "--by-name" in error.value.hint


def test_a_cascade_has_no_digest_by_name(planned):
    """The previous stage's labels are input channels in each site's own numbers."""
    plans, dataset = planned
    plans = copy.deepcopy(plans)
    plans["configurations"]["cascade"] = {"inherits_from": CONFIGURATION, "previous_stage": CONFIGURATION}

    with pytest.raises(ConfigError, match="cascade") as error:
        plans_digest(plans, dataset, "cascade", by_name=True)
    assert "--by-name" in error.value.hint


def agreed(sites, digest: str, head: str = "", member: str = ""):
    """North, with the digest, more keys for federation.toml, and more for its own table there."""
    path = sites["north"].federation.path
    text = path.read_text().replace(sites["north"].federation.plans_digest, digest)
    path.write_text(head + "\n" + text.replace('name = "north"', f'name = "north"\n{member}'))
    return load_site(sites["north"].path)


def test_a_labelled_class_that_does_not_exist_is_refused(planned, sites):
    """A misspelt organ in federation.toml would otherwise never be learnt."""
    digest = plans_digest(*planned, CONFIGURATION)
    north = agreed(sites, digest, member='labelled = ["brainstem", "parotid"]')

    with pytest.raises(
        ConfigError, match="names parotid, but the dataset's classes are brainstem, spinal-cord"
    ):
        check_agreement(north, *planned, CONFIGURATION)


def test_a_site_that_contours_nothing_is_refused(planned, sites):
    """There would be nothing to train with."""
    north = agreed(sites, plans_digest(*planned, CONFIGURATION), member="labelled = []")

    with pytest.raises(ConfigError, match="labelled of site north names no class"):
        check_agreement(north, *planned, CONFIGURATION)


def classes_line(dataset) -> str:
    """The key classes of federation.toml, in an order of its own."""
    return f"classes = {sorted(class_names(dataset))[::-1]}"


def test_a_site_with_other_numbers_agrees_by_name(planned, sites):
    """With the key classes, what counts is the digest by name."""
    plans, dataset = planned
    digest = plans_digest(plans, dataset, CONFIGURATION, by_name=True)
    north = agreed(sites, digest, classes_line(dataset))
    names = class_names(dataset)[::-1]
    elsewhere = {"background": 0, **{name: n for n, name in enumerate(names, 1)}}

    check_agreement(north, plans, {**dataset, "labels": elsewhere}, CONFIGURATION)

    assert class_names({"labels": elsewhere}) == names != class_names(dataset)


def test_by_name_a_digest_by_number_is_refused_with_the_right_command(planned, sites):
    """The commonest mistake when the key classes is added."""
    north = agreed(sites, plans_digest(*planned, CONFIGURATION), classes_line(planned[1]))

    with pytest.raises(ConfigError, match="plans digest of configuration") as error:
        check_agreement(north, *planned, CONFIGURATION)
    assert "nnunet-gml plans digest --by-name" in error.value.hint


@pytest.mark.parametrize("change", [lambda names: names[1:], lambda names: [*names, "jaw"]])
def test_a_dataset_with_other_classes_than_the_federations_is_told(planned, sites, change):
    """One is missing, one is too many: told by name, not as a digest that differs."""
    plans, dataset = planned
    digest = plans_digest(plans, dataset, CONFIGURATION, by_name=True)
    north = agreed(sites, digest, f"classes = {change(list(class_names(dataset)))}")

    with pytest.raises(ConfigError, match=r"the dataset's classes are brainstem, .* names "):
        check_agreement(north, plans, dataset, CONFIGURATION)
