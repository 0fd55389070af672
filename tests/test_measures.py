"""Figures of a case: Dice and volumes as nnU-Net's, surface distances against plain references."""

from __future__ import annotations

import numpy as np
import pytest
from comparison_kit import BIG, LABELS, SHAPE, SPACING_MM, TINY, TRUTH, draw, off_by, predicted, write_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunet_gml.comparison.measures import COLUMNS, measure
from nnunet_gml.comparison.surfaces import surface_scores
from peer_sync.errors import ConfigError

REGIONS = {"background": 0, "all": [1, 2, 3], "core": [2], "ignore": 4}
VOXEL_ML = 0.003
"""3 x 1 x 1 mm."""


def blobs(seed: int, values: int) -> np.ndarray:
    """A label map of random boxes."""
    random = np.random.default_rng(seed)
    corners = [random.integers(0, size - 4, 6) for size in SHAPE]
    return draw(
        *(
            (1 + number % values, tuple(slice(int(c[number]), int(c[number]) + 4) for c in corners))
            for number in range(6)
        )
    )


@pytest.mark.parametrize(
    ("labels", "regions", "ignore"),
    [
        ({"background": 0, "a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}, None),
        ({"background": 0, "a": 1, "b": 2, "ignore": 3}, {"a": 1, "b": 2}, 3),
        ({**REGIONS}, {"all": (1, 2, 3), "core": (2,)}, 4),
    ],
    ids=["labels", "ignore", "regions"],
)
def test_dice_and_volumes_are_those_of_nnunet(tmp_path, labels, regions, ignore):
    """Its evaluator on the same files: labels, a label that is not judged, and overlapping regions."""
    cases = {f"case{seed}": (blobs(seed, 4), blobs(seed + 50, 3)) for seed in range(4)}
    found = predicted(tmp_path, cases, labels, SPACING_MM)

    scores = measure([found], {}).set_index(["case", "class"])

    for case in cases:
        files = str(found.reference(case)), str(found.prediction(case))
        theirs = compute_metrics(*files, SimpleITKIO(), list(regions.values()), ignore)["metrics"]
        for name, region in regions.items():
            ours, expected = scores.loc[case, name], theirs[region]
            np.testing.assert_equal(ours["dice"], expected["Dice"])
            assert ours["reference_ml"] == pytest.approx(VOXEL_ML * expected["n_ref"])
            assert ours["predicted_ml"] == pytest.approx(VOXEL_ML * expected["n_pred"])


def plain_hd95(one: np.ndarray, other: np.ndarray, spacing) -> float:
    """The larger directed 95th percentile, by a distance transform of the whole grid."""
    edges = [mask & ~binary_erosion(mask) for mask in (one, other)]
    to = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return max(np.percentile(to[1][edges[0]], 95), np.percentile(to[0][edges[1]], 95))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), thickness=st.sampled_from([0.7, 1.0, 5.0]))
def test_hd95_is_that_of_a_plain_distance_transform(seed, thickness):
    """Random contours that touch the borders of the image, thin and thick slices."""
    one, other = blobs(seed, 1) > 0, blobs(seed + 1, 1) > 0

    found = surface_scores(one, other, (thickness, 1.0, 1.0), 1.0)

    assert found.hd95_mm == pytest.approx(plain_hd95(one, other, (thickness, 1.0, 1.0)), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_nsd_of_a_longer_box_is_that_of_its_faces(spacing):
    """By hand, a 20 mm cube against one that is 4 mm longer, 2 mm tolerated: areas that are further apart are
    the cube's end face less a rim of 2 mm (16 x 16 = 256), the other's end face (20 x 20 = 400), and of its
    sides what is more than 2 mm beyond the cube (80 x 2 = 160); 816 of 2400 + 2720 mm²: 1 - 0.159 = 0.841."""
    shape = tuple(round(40 / length) for length in spacing)
    start, ends = 8 / np.array(spacing), [(8 + np.array(mm)) / spacing for mm in ((20, 20, 20), (20, 20, 24))]
    boxes = [
        draw((1, tuple(slice(round(a), round(b)) for a, b in zip(start, end, strict=True))), shape=shape) > 0
        for end in ends
    ]

    assert surface_scores(*boxes, spacing, 2.0).nsd == pytest.approx(0.841, abs=0.02)
    assert surface_scores(*boxes, spacing, 4.0).nsd == 1


def ball(radius_mm: float, spacing) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(0, 60, length) - 30 for length in spacing), indexing="ij")
    return sum(axis**2 for axis in grid) <= radius_mm**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_concentric_balls_are_apart_by_their_radii(spacing):
    """20 and 25 mm: all surface is 5 mm apart, to a voxel's diagonal, so none within 1 and all within 9."""
    balls = ball(20, spacing), ball(25, spacing)

    assert surface_scores(*balls, spacing, 1.0).nsd < 0.02
    assert surface_scores(*balls, spacing, 5 + np.hypot(*spacing[:2])).nsd == 1
    assert abs(surface_scores(*balls, spacing, 1.0).hd95_mm - 5) <= spacing[0]


def test_a_single_voxel_is_a_box():
    """Two voxels of 3 x 1 x 1 mm, 3 mm apart along the last axis: HD95 is 3 mm; the faces that look at each
    other are 2 mm apart and tolerated, the far ones are not: half the surface."""
    one, other = np.zeros((2, *SHAPE), bool)
    one[5, 5, 5] = other[5, 5, 8] = True

    found = surface_scores(one, other, SPACING_MM, 2.0)

    assert found.hd95_mm == 3
    assert found.nsd == pytest.approx(0.5)


def test_an_empty_mask_has_no_surface():
    """Nobody gets a number for it by accident."""
    with pytest.raises(ValueError, match="one mask is empty"):
        surface_scores(TRUTH == 1, TRUTH == 9, SPACING_MM, 1.0)


def test_absent_organs_are_nan_or_nothing(tmp_path):
    """Neither has it: nan. One has it: Dice and NSD 0, HD95 nan, and the volume missing or too much."""
    big, both = draw((1, BIG)), TRUTH
    found = predicted(tmp_path, {"neither": (big, big), "missed": (both, big), "invented": (big, both)})

    scores = measure([found], {})

    assert tuple(scores.columns) == COLUMNS
    tiny = scores[scores["class"] == "tiny"].set_index("case")
    figures = tiny[["dice", "nsd", "hd95_mm", "volume_error_ml", "absent_reference", "absent_predicted"]]
    volume = 8 * VOXEL_ML
    expected = {
        "invented": [0, 0, np.nan, volume, True, False],
        "missed": [0, 0, np.nan, -volume, False, True],
        "neither": [np.nan, np.nan, np.nan, np.nan, True, True],
    }
    for case, values in expected.items():
        np.testing.assert_allclose(figures.loc[case].astype(float), np.array(values, float))


def test_a_tolerance_of_a_class_counts_for_that_class_only(tmp_path):
    """A big organ 2 mm off: within its own 2 mm all of it agrees, within 0.5 mm only the sides do."""
    found = predicted(tmp_path, {"a": (TRUTH, off_by(2))})

    nsd = [measure([found], {"big": mm, "tiny": 9.0})["nsd"].tolist() for mm in (2.0, 0.5)]

    assert nsd[0] == [1, 1]
    assert nsd[1][0] < 0.9 and nsd[1][1] == 1


def test_what_the_reference_ignores_is_not_judged(tmp_path):
    """A wrong half that lies in the ignored part changes nothing."""
    ignored = draw((1, BIG), (4, (slice(None), slice(None), slice(8, 20))))
    wrong = draw((1, BIG), (1, (slice(None), slice(None), slice(9, 20))))
    found = predicted(tmp_path, {"a": (ignored, wrong)}, {"background": 0, "big": 1, "ignore": 4})

    (row,) = measure([found], {}).to_dict("records")

    assert (row["dice"], row["nsd"], row["hd95_mm"], row["volume_error_ml"]) == (1, 1, 0, 0)


def test_flat_images_have_lines_and_no_volume(tmp_path):
    """One slice, a square of 6 x 6 against one 2 mm on: half a millimetre is too little, two are enough."""
    box = (slice(0, 1), slice(4, 10), slice(4, 10))
    further = (*box[:2], slice(6, 12))
    pair = draw((1, box), shape=(1, 20, 20)), draw((1, further), shape=(1, 20, 20))
    found = predicted(tmp_path, {"a": pair}, {"background": 0, "big": 1}, (4.0, 1.0, 1.0))

    (row,) = measure([found], {"big": 2.0}).to_dict("records")

    assert (row["nsd"], row["hd95_mm"]) == (1, 2)
    assert np.isnan(row["reference_ml"]) and np.isnan(row["volume_error_ml"])
    assert measure([found], {"big": 0.5})["nsd"].item() < 0.8


@pytest.mark.parametrize(
    ("shape", "spacing", "said"),
    [
        ((12, 20, 19), SPACING_MM, "12 x 20 x 19 voxels of 3 x 1 x 1 mm"),
        (SHAPE, (3.0, 1.0, 1.1), "12 x 20 x 20 voxels of 3 x 1 x 1.1 mm"),
    ],
)
def test_another_grid_is_an_error_that_names_both(tmp_path, shape, spacing, said):
    """Size or spacing: figures of voxels that do not lie on each other would be wrong, not worse."""
    found = predicted(tmp_path, {"a": (TRUTH, TRUTH)})
    write_cases(found.predictions, {"a": np.ones(shape, np.uint8)}, spacing)

    with pytest.raises(ConfigError, match=said) as caught:
        measure([found], {})

    assert "but" in str(caught.value) and "12 x 20 x 20 voxels of 3 x 1 x 1 mm" in str(caught.value)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    """An interrupted copy."""
    found = predicted(tmp_path, {"a": (TRUTH, TRUTH)})
    found.prediction("a").write_bytes(found.reference("a").read_bytes()[:50])

    with pytest.raises(ConfigError, match=r"predictions/a\.nii\.gz cannot be read"):
        measure([found], {})


@pytest.mark.slow
def test_processes_change_no_figure(tmp_path):
    """Two at once give the same rows in the same order, and their errors keep their words and hint."""
    cases = {f"case{seed}": (blobs(seed, 2), blobs(seed + 9, 2)) for seed in range(5)}
    found = predicted(tmp_path, cases, LABELS)

    assert measure([found], {}, jobs=2).equals(measure([found], {}))

    write_cases(found.predictions, {"case3": np.ones((2, 2, 2), np.uint8)})
    with pytest.raises(ConfigError, match="case3") as caught:
        measure([found], {}, jobs=2)
    assert "one grid" in caught.value.hint


def test_progress_is_told_case_by_case(tmp_path):
    """Once for each."""
    told = []

    measure(
        [predicted(tmp_path, {"a": (TRUTH, TRUTH), "b": (draw((2, TINY)), TRUTH)})],
        {},
        done=lambda: told.append(1),
    )

    assert told == [1, 1]
