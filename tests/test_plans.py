"""The plans digest: what must agree, and what is each site's own."""

import copy

import pytest
from nnunet_kit import CONFIGURATION, plans_of

from nnunet_gml.plans import check_agreement, class_names, plans_digest
from peer_sync.errors import ConfigError


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


def test_a_labelled_class_that_does_not_exist_is_refused(planned, sites):
    """A misspelt organ in federation.toml would otherwise never be learnt."""
    text = sites["north"].federation.path.read_text()
    digest = plans_digest(*planned, CONFIGURATION)
    text = text.replace(sites["north"].federation.plans_digest, digest)
    text = text.replace('name = "north"', 'name = "north"\nlabelled = ["brainstem", "parotid"]')
    sites["north"].federation.path.write_text(text)
    from peer_sync.site import load_site

    with pytest.raises(
        ConfigError, match="names parotid, but the dataset's classes are brainstem, spinal-cord"
    ):
        check_agreement(load_site(sites["north"].path), *planned, CONFIGURATION)
