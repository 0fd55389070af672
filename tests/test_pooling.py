"""Planning together: the pooled fingerprint is that of the merged data, and no case stands for itself."""

from __future__ import annotations

import copy
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunet_kit import folders, use_folders
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from plans_kit import (
    hippocampus_sites,
    merge,
    stock_fingerprint,
    stock_plans,
    summaries,
    write_raw,
)

from nnunet_gml.phantom import write_dataset
from nnunet_gml.planning import fingerprint
from nnunet_gml.planning.fingerprint import summarise
from nnunet_gml.planning.histograms import (
    BINS_PER_OCTAVE,
    bin_edges,
    bin_numbers,
    merged_bins,
    percentile,
)
from nnunet_gml.planning.pooling import Summary, pool, read_summary, stand_ins
from peer_sync.documents import Document
from peer_sync.errors import ConfigError, RejectedError

EXACT = ("mean", "std", "min", "max")
BINNED = ("median", "percentile_00_5", "percentile_99_5")
numbers = st.floats(-1e15, 1e15, allow_nan=False)
positive = st.floats(0.1, 500, allow_nan=False)


@given(st.lists(numbers, min_size=1, max_size=50))
def test_a_value_is_within_one_bin_of_its_bins_edge(values):
    """The edge is never further from 0 than the value, and at most 2^-10 of it away."""
    edges = bin_edges(bin_numbers(values))

    error = np.abs(values) - np.abs(edges)
    assert (error >= 0).all()
    assert (error <= np.maximum(np.abs(values) / BINS_PER_OCTAVE, 2.0**-40)).all()


def test_whole_numbers_up_to_2048_are_exact():
    """Hounsfield units and 8-bit images lose nothing."""
    values = np.arange(-2048, 2049)

    assert (bin_edges(bin_numbers(values)) == values).all()


@given(st.lists(numbers, min_size=2, max_size=30))
def test_bins_ascend_as_their_values_do(values):
    """Otherwise no percentile could be read off them."""
    values = sorted(values)

    assert (np.diff(bin_numbers(values)) >= 0).all()


@given(
    st.lists(st.integers(-2000, 2000), min_size=1, max_size=60), st.sampled_from([0, 0.5, 10, 50, 99.5, 100])
)
def test_percentiles_of_whole_numbers_are_numpys(values, percent):
    """Linear between the two nearest, as nnU-Net computes them."""
    edges, counts = np.unique(bin_edges(bin_numbers(values)), return_counts=True)

    assert percentile(edges, counts, percent) == pytest.approx(np.percentile(values, percent), abs=1e-9)


@given(st.lists(st.integers(1, 40), min_size=5, max_size=80), st.integers(3, 5))
def test_no_bin_has_too_few_cases(values, least):
    """And no case is lost: numbers and sum stay."""
    found = merged_bins(values, least)

    assert min(found.counts) >= least
    assert sum(found.counts) == len(values)
    assert np.dot(found.values, found.counts) == pytest.approx(sum(values))
    assert (np.diff(found.values) > 0).all()


@given(st.lists(st.integers(20, 40), min_size=5, max_size=80), st.integers(3, 5))
def test_a_bin_tells_its_spread_as_a_power_of_two_only(values, least):
    """At most the standard deviation of its cases, and more than half of it."""
    found = merged_bins(values, least)

    for cases, spread in zip(
        np.split(np.sort(values), np.cumsum(found.counts)[:-1]), found.spreads, strict=True
    ):
        assert math.frexp(spread)[0] in (0, 0.5)
        assert spread <= np.std(cases) * (1 + 1e-12)
        assert np.std(cases) <= 2 * spread


@given(st.lists(st.integers(20, 40), min_size=5, max_size=80), st.integers(3, 5))
def test_made_up_cases_of_a_histogram_keep_its_bins(values, least):
    """So many cases, with the mean and the spread of each bin; equal ones where all were equal."""
    found = merged_bins(values, least)

    bins = np.split(found.cases(), np.cumsum(found.counts)[:-1])

    assert [len(cases) for cases in bins] == found.counts.tolist()
    assert [cases.mean() for cases in bins] == pytest.approx(found.values)
    assert [cases.std() for cases in bins] == pytest.approx(found.spreads, abs=1e-9)


def test_a_wide_bin_stays_positive():
    """1, 1, 1, 1 and 100: a deviation of 39.6 around 20.8; no case is below half of that or above twice."""
    cases = merged_bins([1, 1, 1, 1, 100], 5).cases()

    assert 10.4 <= min(cases) < max(cases) <= 41.6


def test_a_median_between_the_bins_of_two_sites_is_found():
    """Sites with 1 to 20 and 21 to 41: the median is 21, the mean of its bin 23; found within one."""
    found = [merged_bins(list(values), 5) for values in (range(1, 21), range(21, 42))]

    assert np.median(np.rint(np.concatenate([each.cases() for each in found]))) == pytest.approx(21, abs=1)


@given(st.lists(st.tuples(positive, st.integers(1, 600)), min_size=1, max_size=40), st.booleans())
def test_made_up_cases_have_what_the_planner_reads(cases, is_alike):
    """Median and 10th percentile of the spacing, median shape, median resampled shape, along one axis."""
    spacing = np.array([cases[0][0] if is_alike else mm for mm, _ in cases])
    shape = np.array([voxels for _, voxels in cases])

    spacings, shapes = stand_ins(spacing, shape, spacing * shape)

    for percent in (10, 50):
        assert np.percentile(spacings, percent) == pytest.approx(np.percentile(spacing, percent))
    assert np.median(shapes) == pytest.approx(np.median(shape))
    middle = np.sort(spacing * shape)[[(len(cases) - 1) // 2, len(cases) // 2]]
    extents = np.sort(np.multiply(spacings, shapes))
    assert extents[[19, 20]] == pytest.approx(middle)


@pytest.fixture
def here(tmp_path, monkeypatch) -> dict[str, str]:
    """nnU-Net's folders."""
    use_folders(tmp_path, monkeypatch)
    return folders(tmp_path)


@pytest.fixture
def few_samples(monkeypatch) -> None:
    """Ten seconds less for each test in which their number does not matter."""
    monkeypatch.setattr(fingerprint, "ALL_SAMPLES", 1e5)


def raw(here) -> Path:
    return Path(here["nnUNet_raw"])


def intensities(fingerprint: dict) -> dict[str, float]:
    return fingerprint["foreground_intensity_properties_per_channel"]["0"]


def assert_same_fingerprint(pooled: dict, stock: dict) -> None:
    """Exact where that is promised (nnU-Net's own sums are in float32), within a bin else."""
    ours, theirs = intensities(pooled), intensities(stock)
    assert {name: ours[name] for name in EXACT} == pytest.approx(
        {name: theirs[name] for name in EXACT}, rel=1e-5
    )
    for name in BINNED:
        assert ours[name] == pytest.approx(theirs[name], rel=1.5 / BINS_PER_OCTAVE)
    assert pooled["median_relative_size_after_cropping"] == stock["median_relative_size_after_cropping"]
    for name in ("spacings", "shapes_after_crop"):
        assert np.median(pooled[name], 0) == pytest.approx(np.median(stock[name], 0))


def test_two_sites_60_units_apart_have_the_standard_deviation_of_all(here, few_samples):
    """60 around 0 and 60 around 60: sqrt(60^2 + 30^2) = 67.1. The mean of the two deviations is 59.9."""
    datasets = [
        write_raw(raw(here), f"Dataset60{n}_s", [mean] * 5, shapes=[(20, 24, 24)], deviation=60)
        for n, mean in enumerate((0, 60), 1)
    ]
    found = summaries(datasets)

    deviations = [intensities(pool([summary]))["std"] for summary in found]

    assert np.mean(deviations) == pytest.approx(59.9, abs=0.5)
    assert intensities(pool(found))["std"] == pytest.approx(67.1, abs=0.5)


def test_order_and_number_of_calls_change_no_bit(here, few_samples):
    """All sites have to compute the same bytes."""
    datasets = [
        write_raw(raw(here), f"Dataset60{n}_s{n}", [mean] * 5) for n, mean in enumerate((-70, 3, 90), 1)
    ]
    found = summaries(datasets)

    assert json.dumps(pool(found)) == json.dumps(pool(found[::-1]))


def test_too_few_cases_are_refused(here):
    """Of four cases a summary would tell too much."""
    dataset = write_raw(raw(here), "Dataset601_small", [0] * 4)

    with pytest.raises(ConfigError, match="4 training cases, but a summary needs at least 5") as error:
        summarise(dataset, 100)
    assert "plans adopt" in error.value.hint


def test_a_summary_says_nothing_of_a_single_case(here, few_samples):
    """One case of another size than all the others cannot be told from it."""
    dataset = write_raw(raw(here), "Dataset601_odd", [0] * 7, shapes=[(8, 12, 12)] * 6 + [(9, 50, 51)])

    content = summarise(dataset, 7)

    text = json.dumps({name: content[name] for name in ("shape_voxels", "extent_mm", "spacing_mm")})
    for value in ("50", "51", "9.0", "18.0"):
        assert f"[{value}" not in text
        assert f" {value}" not in text
    assert content["shape_voxels"][1]["counts"] == [7]


@pytest.mark.parametrize("content", [b"no image", b""])
def test_an_image_that_cannot_be_read_is_named(here, few_samples, content):
    """A damaged file ends in a sentence, whichever case it is."""
    dataset = write_raw(raw(here), "Dataset601_damaged", [0, 1, 2, 3, 4])
    (dataset / "imagesTr" / "dataset601_damaged_003_0000.nii.gz").write_bytes(content)

    with pytest.raises(ConfigError, match="damaged_003"):
        summarise(dataset, 5)


@pytest.mark.parametrize("intensity", [float("nan"), float("inf"), 1e30])
def test_an_intensity_that_is_no_number_names_its_case(here, few_samples, monkeypatch, intensity):
    """What could not be pooled is not published."""
    dataset = write_raw(raw(here), "Dataset601_infinite", [0, 1, 2, 3, 4])
    found = (8, 12, 12), (2.0, 1.0, 1.0), [[1.0, intensity]], None, 1.0
    monkeypatch.setattr(DatasetFingerprintExtractor, "analyze_case", lambda *task: found)

    with pytest.raises(ConfigError, match=r"infinite_000.*NaN, infinite"):
        summarise(dataset, 5)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict:
    """A good summary of one of two sites."""
    dataset = write_raw(tmp_path_factory.mktemp("raw"), "Dataset601_a", [0, 5, 10, 15, 20])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "ALL_SAMPLES", 1e5)
        return {"counts": {"east": 5, "north": 7}, **summarise(dataset, 12)}


THREE_AND_THREE = {"values": [1.0, 1.0], "counts": [3, 3], "spreads": [0.0, 0.0]}


def read(content: dict) -> Summary:
    return read_summary(Document("east", "fingerprint", datetime.now(UTC), content))


def test_a_good_summary_is_read(content):
    """The content of the next test, unchanged."""
    assert read(content).counts == {"east": 5, "north": 7}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(more=1),
        lambda c: c.pop("channels"),
        lambda c: c.update(counts=[5, 7]),
        lambda c: c["counts"].update(east=4),
        lambda c: c["counts"].update(north=-7),
        lambda c: c["spacing_mm"].pop(),
        lambda c: c["spacing_mm"][0].update(values=["1"]),
        lambda c: c["spacing_mm"][0].update(values=[-1.0]),
        lambda c: c["spacing_mm"][0].update(values=[10**400]),
        lambda c: c["shape_voxels"][0].update(values=[7.0, 8.0], counts=[4, 1], spreads=[0, 0]),
        lambda c: c["shape_voxels"][0].update(counts=[6]),
        lambda c: (c["counts"].update(east=6), c["spacing_mm"][0].update(THREE_AND_THREE)),
        lambda c: c["extent_mm"][0].update(spreads=[]),
        lambda c: c["extent_mm"][0].update(spreads=[-1.0]),
        lambda c: c["extent_mm"][0].update(spreads=[1e300]),
        lambda c: c["extent_mm"][0].update(spreads=["0"]),
        lambda c: c["channels"][0].update(n=10**9),
        lambda c: c["channels"][0].update(sum=1e300),
        lambda c: c["channels"][0].update(sum_of_squares=1.0),
        lambda c: c["channels"][0].update(sum_of_squares=1e20),
        lambda c: c["channels"][0].update(sum_of_squares=1e308),
        lambda c: c["channels"][0].update(max=1e300),
        lambda c: c.update(channels=[]),
        lambda c: c["spacing_mm"][0].update(values=[1e-320]),
        lambda c: c["shape_voxels"][0].update(values=[1e300]),
        lambda c: c["channels"][0].update(min=-1e6),
        lambda c: c["channels"][0].update(max="9"),
        lambda c: c["channels"][0]["steps"].__setitem__(1, 0),
        lambda c: c["channels"][0]["steps"].__setitem__(0, 10**12),
        lambda c: c["channels"][0]["counts"].pop(),
        lambda c: c["channels"][0]["counts"].__setitem__(0, -5),
    ],
)
def test_a_summary_that_does_not_fit_itself_is_refused(content, change):
    """Types, bounds, bins of too few cases, sums that no intensities could have."""
    changed = copy.deepcopy(content)
    change(changed)

    with pytest.raises(RejectedError) as error:
        read(changed)
    assert error.value.rule == "document"
    assert "site 'east'" in str(error.value)


def assert_same_plans(here, datasets: list[Path]) -> tuple[dict, dict]:
    """Pool, and compare fingerprint and plans with nnU-Net's own for the merged data."""
    merged = merge(raw(here), datasets)
    stock = stock_fingerprint(here, merged)
    expected = stock_plans(here, merged, "mergedPlans")
    pooled = pool(summaries(datasets))
    assert_same_fingerprint(pooled, stock)
    place = Path(here["nnUNet_preprocessed"]) / merged.name / "dataset_fingerprint.json"
    place.write_text(json.dumps(pooled))
    found = stock_plans(here, merged, "pooledPlans")
    for plans in (found, expected):
        del plans["foreground_intensity_properties_per_channel"]
    return found, expected


@pytest.mark.slow
def test_the_phantoms_plans_are_those_of_the_merged_data(here):
    """Three scanners, 18 cases: the same plans in every field but the binned intensities."""
    datasets = [
        write_dataset(raw(here), 601 + n, site, 3, training_cases=6, test_cases=0)
        for n, site in enumerate(("north", "east", "south"))
    ]

    found, expected = assert_same_plans(here, datasets)

    assert found == expected


@pytest.mark.slow
def test_plans_of_sites_with_other_spacings_are_those_of_the_merged_data(here):
    """Two scanners with slices of 2 and 5 mm: anisotropic, so the 10th percentile decides."""
    shapes = [(12, 48, 40), (14, 48, 40), (14, 50, 44)]
    datasets = [
        write_raw(raw(here), "Dataset601_thin", [0] * 6, (2.0, 0.5, 0.5), [(40, 48, 40)]),
        write_raw(raw(here), "Dataset602_thick", [40] * 9, (5.0, 0.5, 0.5), shapes[1:2]),
    ]

    found, expected = assert_same_plans(here, datasets)

    assert found == expected


@pytest.mark.slow
def test_the_hippocampus_plans_are_those_of_the_merged_data(here):
    """Five sites that differ in size, 211 real images: equal in all but the binned intensities."""
    found, expected = assert_same_plans(here, hippocampus_sites(raw(here)))

    assert found == expected
