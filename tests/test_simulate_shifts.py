"""A simulated site with another scanner or another way to contour."""

import json

import numpy as np
import pytest
import SimpleITK

from nnunet_gml.phantom import Style
from nnunet_gml.simulation.datasets import raw_datasets
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.shifts import parse_shifts, redraw, rescan
from peer_sync.errors import ConfigError

MM = (1.0, 1.0, 1.0)


def recipe(datasets, *shifts):
    """A recipe of given datasets with shifts."""
    return Recipe(tuple(map(str, datasets)), ("nnUNetTrainer",), 1, 1, 5, shifts=shifts)


def voxels(path):
    """The numbers of an image file."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


@pytest.fixture
def datasets(tmp_path):
    """Sites a and b: a training case and one held out, an organ of 4 x 4 x 4 voxels that is 100 brighter."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[4:8, 4:8, 4:8] = 1
    made = []
    for number, name in enumerate("ab", start=1):
        raw = tmp_path / f"Dataset00{number}_{name}"
        for part in ("Tr", "Ts"):
            for kind, ending, content in (("images", "_0000", label * np.int16(100)), ("labels", "", label)):
                (raw / f"{kind}{part}").mkdir(parents=True)
                image = SimpleITK.GetImageFromArray(content)
                image.SetOrigin((1.0, 2.0, 3.0))
                SimpleITK.WriteImage(image, str(raw / f"{kind}{part}" / f"c{ending}.nii.gz"))
        about = {
            "labels": {"background": 0, "organ": 1},
            "channel_names": {"0": "CT"},
            "file_ending": ".nii.gz",
        }
        (raw / "dataset.json").write_text(json.dumps(about))
        made.append(raw)
    return made


def test_only_the_shifted_site_is_anew(tmp_path, datasets):
    """Gain 2 doubles, training and held out alike; a margin of 1.1 mm adds a voxel on each side.

    6 x 6 x 6 voxels without edges and corners, which are further away: 4^3 + 6 x 4^2 = 160. Site b keeps its
    folder; the geometry stays.
    """
    a, b = raw_datasets(recipe(datasets, "a=gain=2,margin_mm=1.1"), tmp_path / "out")

    assert b == str(datasets[1])
    a = tmp_path / a
    for part in ("Tr", "Ts"):
        assert voxels(a / f"images{part}" / "c_0000.nii.gz").max() == pytest.approx(200, rel=1e-5)
        assert np.count_nonzero(voxels(a / f"labels{part}" / "c.nii.gz")) == 160
    assert SimpleITK.ReadImage(str(a / "labelsTr" / "c.nii.gz")).GetOrigin() == (1.0, 2.0, 3.0)
    assert (a / "dataset.json").is_symlink()
    assert np.count_nonzero(voxels(datasets[0] / "labelsTr" / "c.nii.gz")) == 64


def test_noise_is_in_the_images_own_unit_and_repeats():
    """A deviation of 0.5 of an image whose own is 40: 20, with 32768 voxels to within 2 %."""
    image = np.zeros((32, 32, 32))
    image[:16] = 80

    shown = rescan(image, MM, "c_0000.nii.gz", Style(noise=0.5), seed=1)

    assert (shown - image).std() == pytest.approx(20, rel=0.02)
    assert np.array_equal(shown, rescan(image, MM, "c_0000.nii.gz", Style(noise=0.5), seed=1))
    assert not np.array_equal(shown, rescan(image, MM, "d_0000.nii.gz", Style(noise=0.5), seed=1))


def test_blur_is_in_millimetres():
    """A point seen by a kernel of 2 mm where voxels are 1 mm: e^(-1/2) of its height two voxels away."""
    image = np.zeros((21, 21, 21))
    image[10, 10, 10] = 1

    shown = rescan(image, MM, "c", Style(blur_mm=2.0), seed=1)

    assert shown[10, 10, 12] / shown[10, 10, 10] == pytest.approx(np.exp(-0.5), rel=1e-3)
    assert shown.sum() == pytest.approx(1, rel=1e-3)


def test_between_two_organs_the_nearer_wins():
    """Two bars side by side grow outwards only: 1 1 2 2 becomes 1 1 1 2 2 2, with no voxel taken over."""
    row = np.array([[[0, 0, 1, 1, 2, 2, 0, 0]]])

    assert redraw(row, MM, Style(margin_mm=1.5)).ravel().tolist() == [0, 1, 1, 1, 2, 2, 2, 0]


def test_rounding_takes_corners():
    """Of a cube the corners go, and its faces stay."""
    cube = np.zeros((14, 14, 14), np.uint8)
    cube[4:10, 4:10, 4:10] = 1

    drawn = redraw(cube, MM, Style(smoothing_mm=1.5))

    assert drawn[4, 4, 4] == 0
    assert drawn[4, 7, 7] == drawn[7, 7, 9] == 1


def test_nothing_vanishes_and_ignored_voxels_stay():
    """A margin of -2 mm would leave nothing of a voxel; 9 is to be ignored."""
    row = np.array([[[0, 0, 1, 0, 0, 0, 9, 9, 9]]])

    assert redraw(row, MM, Style(margin_mm=-2.0), ignore=9).ravel().tolist() == row.ravel().tolist()


@pytest.mark.parametrize("entry", ["a", "a=", "a=gain", "a=gain=x", "a=gain=nan", "a=colour=1", "=gain=1"])
def test_what_is_no_shift_is_refused(entry):
    """The hint names what there is."""
    with pytest.raises(ConfigError) as refused:
        parse_shifts([entry])

    assert "margin_mm" in refused.value.hint


def test_a_site_has_one_shift_and_exists(tmp_path, datasets):
    """Named twice, or not there."""
    with pytest.raises(ConfigError, match="a=gain=1"):
        parse_shifts(["a=gain=2", "a=gain=1"])
    with pytest.raises(ConfigError, match="no site c"):
        raw_datasets(recipe(datasets, "c=gain=2"), tmp_path / "out")


def test_the_phantoms_voxels_are_what_they_were():
    """Golden: the first patient of north and east, seed 1; runs that exist were made with these images."""
    from nnunet_gml.phantom import make_case

    sums = [
        [int(part.astype(np.int64).sum()) for part in make_case(site, 1, 0)] for site in ("north", "east")
    ]

    assert sums == [[11876044, 7370], [20972877, 8194]]  # as version 0.1.0 made them
