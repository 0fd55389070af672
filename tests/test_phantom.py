"""The phantom: what the demo's three sites are made of."""

import json

import numpy as np
import pytest
import SimpleITK

from nnunet_gml.anatomy import SHAPE, SPACING_MM, patient
from nnunet_gml.phantom import ORGANS, STYLES, Style, contour, make_case, write_dataset
from peer_sync.errors import ConfigError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A raw dataset of three training cases and two held-out ones."""
    return write_dataset(tmp_path_factory.mktemp("raw"), 7, "east", seed=3, training_cases=3, test_cases=2)


def test_same_seed_gives_the_same_voxels():
    """A run can be repeated to the last voxel; another seed is another patient."""
    image, label = make_case("north", 1, 0)
    again, label_again = make_case("north", 1, 0)
    other, _ = make_case("north", 2, 0)

    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)
    assert not np.array_equal(image, other)


def test_every_organ_is_in_every_case():
    """No case of the demo's size lacks an organ, in any style, and none is just a few voxels."""
    smallest = min(
        np.count_nonzero(make_case(site, 20261121, number)[1] == value)
        for site in STYLES
        for number in range(5)
        for value in ORGANS.values()
    )

    assert smallest > 50


def test_no_patient_is_shared():
    """The anatomy differs between any two cases, of one site or of two."""
    labels = [make_case(site, 5, number)[1].tobytes() for site in STYLES for number in range(4)]

    assert len(set(labels)) == len(labels)


def test_contours_follow_the_style():
    """The same patient: a wider margin contains the narrower contour, and every organ grows."""
    someone = patient(np.random.default_rng(4))

    tight = contour(someone.organs, Style(1, 0, 1, 0, 0, margin_mm=-1.0, smoothing_mm=0))
    wide = contour(someone.organs, Style(1, 0, 1, 0, 0, margin_mm=2.0, smoothing_mm=0))

    assert np.all(wide[tight > 0] > 0)
    for value in ORGANS.values():
        assert np.count_nonzero(wide == value) > np.count_nonzero(tight == value)


def test_sites_have_their_own_scanner():
    """The mandible stands out from air by gain x 1.0, so the order of the contrasts is that of the gains."""
    contrasts = {}
    for site in STYLES:
        image, label = make_case(site, 9, 0)
        contrasts[site] = float(image[label == ORGANS["mandible"]].mean() - image[-1, 0, 0])

    by_gain = sorted(STYLES, key=lambda site: STYLES[site].gain)
    assert sorted(contrasts, key=contrasts.__getitem__) == by_gain


def test_dataset_is_in_nnunets_layout(dataset):
    """Names, counts and dataset.json are what nnU-Net expects, and the channel takes z-score."""
    description = json.loads((dataset / "dataset.json").read_text())

    assert dataset.name == "Dataset007_east"
    assert description["channel_names"] == {"0": "synthetic"}
    assert description["numTraining"] == 3
    assert sorted(description["labels"].values()) == list(range(len(ORGANS) + 1))
    for suffix, count in (("Tr", 3), ("Ts", 2)):
        images = sorted(path.name for path in (dataset / f"images{suffix}").iterdir())
        labels = sorted(path.name for path in (dataset / f"labels{suffix}").iterdir())
        assert len(images) == count
        assert [name.replace("_0000", "") for name in images] == labels


def test_training_and_held_out_patients_differ(dataset):
    """No case name stands in both groups."""
    training = {path.name for path in (dataset / "labelsTr").iterdir()}

    assert not training & {path.name for path in (dataset / "labelsTs").iterdir()}


def test_image_and_label_have_one_geometry(dataset):
    """nnU-Net refuses pairs that differ in size, spacing, origin or direction."""
    image = SimpleITK.ReadImage(str(dataset / "imagesTr" / "east_000_0000.nii.gz"))
    label = SimpleITK.ReadImage(str(dataset / "labelsTr" / "east_000.nii.gz"))

    assert image.GetSize() == label.GetSize() == SHAPE[::-1]
    assert image.GetSpacing() == pytest.approx(SPACING_MM[::-1])
    for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, fact)() == pytest.approx(getattr(label, fact)())


def test_unknown_site_is_refused(tmp_path):
    """The error names the sites there are."""
    with pytest.raises(ConfigError) as refused:
        write_dataset(tmp_path, 7, "west", 1, 1, 1)

    assert "north" in refused.value.hint
