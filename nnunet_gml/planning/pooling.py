"""One dataset_fingerprint.json from the summaries of all sites, as if the images lay together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

import numpy as np

from nnunet_gml.planning.cases import Channel
from nnunet_gml.planning.fingerprint import samples_per_case, together
from nnunet_gml.planning.histograms import (
    MOST_BIN,
    MOST_EXPONENT,
    Floats,
    Histogram,
    bin_edges,
    bin_numbers,
    percentile,
)
from peer_sync.documents import Document
from peer_sync.errors import RejectedError, quoted

FEWEST_CASES = 3
"""A bin of cases with fewer is refused, whatever its site allows itself."""
MOST_CASES = 1_000_000
LEAST_MEASURE, MOST_MEASURE = 1e-9, 1e9
"""Of spacings, shapes and extents, in any unit that images come in."""
AXES = 3
GEOMETRY = ("spacing_mm", "shape_voxels", "extent_mm")
FIELDS = {"counts", "relative_size", "channels", *GEOMETRY}
HISTOGRAM_FIELDS = {each.name for each in fields(Histogram)}
CHANNEL_FIELDS = {"n", "sum", "sum_of_squares", "min", "max", "steps", "counts"}
SLACK = 1e-9
"""Sums are rounded: so much may they seem to be wrong, relatively."""


@dataclass(frozen=True)
class Summary:
    """One site's, checked.

    Attributes:
        counts: training cases of every site, as this site had them when it made its summary.
        geometry: for each of `GEOMETRY` a histogram for each axis.
        relative_size: of the part of the image that is left without the empty border.
        channels: intensities.
    """

    counts: Mapping[str, int]
    geometry: Mapping[str, Sequence[Histogram]]
    relative_size: Histogram
    channels: Sequence[Channel]


def read_summary(document: Document) -> Summary:
    """Check a ``fingerprint`` document's content. Raises `RejectedError`, rule ``document``."""
    try:
        return _summary(document.content, document.site)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RejectedError(
            "document",
            f"document {document.kind} of site {document.site!r}: expected a summary of its images, found "
            f"{quoted(error)}",
            hint="the same version of nnunet-gml at all sites?",
        ) from error


def pool(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The content of dataset_fingerprint.json for the cases of all sites; their order does not matter.

    Mean, standard deviation, minimum and maximum of the intensities are exact; median and percentiles are
    right to one bin. ``spacings`` and ``shapes_after_crop`` are a few made-up cases, see `stand_ins`.

    Raises:
        ValueError: the sites have different numbers of channels.
    """
    if len({len(summary.channels) for summary in summaries}) != 1:
        raise ValueError("the sites have different numbers of channels")
    axes = [_along(summaries, axis) for axis in range(AXES)]
    spacings, shapes = (
        [list(case) for case in zip(*along, strict=True)] for along in zip(*axes, strict=True)
    )
    channels = [together(same) for same in zip(*(summary.channels for summary in summaries), strict=True)]
    return {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {
            str(number): _properties(channel) for number, channel in enumerate(channels)
        },
        "median_relative_size_after_cropping": float(
            np.median(_all_cases(summary.relative_size for summary in summaries))
        ),
    }


def stand_ins(spacing: Floats, shape: Floats, extent: Floats) -> tuple[list[float], list[float]]:
    r"""Spacings and shapes of made-up cases, along one axis, from which nnU-Net plans the same.

    Of all cases nnU-Net's planner uses the median and the 10th percentile of the spacing, the median of the
    shape, and the median of what the shape becomes at the target spacing, which is the extent (spacing
    times shape) over the target, rounded. With :math:`H` the median shape, :math:`S` the median spacing and
    :math:`E_1 \le E_2` the two middle extents, two cases are :math:`(E_1/H, H)` and :math:`(E_2/H, H)`; 19
    have neither a larger shape nor a larger extent, 19 neither a smaller one: so these two are in the middle
    of both. The spacing of five is the 10th percentile, that of the other 33 is :math:`S`.

    Args:
        spacing: mm, one for each case.
        shape: voxels.
        extent: mm.

    Returns:
        Forty spacings in mm, and forty shapes in voxels, which need not be whole.
    """
    low, usual = np.percentile(spacing, (10, 50)).tolist()
    voxels = float(np.median(shape))
    first, second = np.sort(extent)[[(len(extent) - 1) // 2, len(extent) // 2]].tolist()
    below, above = [low] * 5 + [usual] * 14, [usual] * 19
    spacings = [*below, first / voxels, second / voxels, *above]
    shapes = [
        *(min(voxels, first / mm) for mm in below),
        voxels,
        voxels,
        *(max(voxels, second / mm) for mm in above),
    ]
    return spacings, shapes


def _along(summaries: Sequence[Summary], axis: int) -> tuple[list[float], list[float]]:
    spacing, shape, extent = (
        _all_cases(summary.geometry[name][axis] for summary in summaries) for name in GEOMETRY
    )
    return stand_ins(spacing, np.maximum(1, np.rint(shape)), extent)


def _all_cases(histograms: Iterable[Histogram]) -> Floats:
    """Sorted, so that the order of the sites does not matter to the last bit."""
    return np.sort(np.concatenate([histogram.cases() for histogram in histograms]))


def _properties(channel: Channel) -> dict[str, float]:
    mean = channel.sum / channel.n
    edges = bin_edges(list(channel.bins))
    counts = np.array(list(channel.bins.values()), dtype=np.int64)
    low, median, high = (
        min(max(percentile(edges, counts, percent), channel.min), channel.max) for percent in (0.5, 50, 99.5)
    )
    return {
        "mean": mean,
        "median": median,
        "std": math.sqrt(max(0.0, channel.sum_of_squares / channel.n - mean**2)),
        "min": channel.min,
        "max": channel.max,
        "percentile_99_5": high,
        "percentile_00_5": low,
    }


def _summary(content: Mapping[str, Any], site: str) -> Summary:
    _expect(content.keys() == FIELDS, "other fields")
    counts = content["counts"]
    _expect(all(_is_count(number) for number in counts.values()), "counts that are no numbers of cases")
    cases = counts[site]
    samples = cases * samples_per_case(sum(counts.values()))
    geometry = {name: [_histogram(axis, cases) for axis in content[name]] for name in GEOMETRY}
    _expect(all(len(axes) == AXES for axes in geometry.values()), "another number of axes than 3")
    channels = [_channel(channel, samples) for channel in content["channels"]]
    _expect(len(channels) > 0, "no channels")
    return Summary(dict(counts), geometry, _histogram(content["relative_size"], cases), channels)


def _histogram(content: Mapping[str, Any], cases: int) -> Histogram:
    _expect(content.keys() == HISTOGRAM_FIELDS, "other fields in a histogram")
    values, counts, spreads = content["values"], content["counts"], content["spreads"]
    _expect(len(values) == len(counts) == len(spreads), "a histogram with unequal lists")
    _expect(all(map(_is_measure, values)), f"a value that is not from {LEAST_MEASURE} to {MOST_MEASURE}")
    _expect(all(_is_count(count) and count >= FEWEST_CASES for count in counts), "a bin of too few cases")
    _expect(sum(counts) == cases, "a histogram of another number of cases")
    _expect(all(map(_is_spread, spreads)), f"a spread that is not from 0 to {MOST_MEASURE}")
    found = Histogram(
        np.array(values, dtype=np.float64),
        np.array(counts, dtype=np.int64),
        np.array(spreads, dtype=np.float64),
    )
    _expect(bool((np.diff(found.values) > 0).all()), "a histogram that does not ascend")
    return found


def _channel(content: Mapping[str, Any], most: int) -> Channel:
    _expect(content.keys() == CHANNEL_FIELDS, "other fields in a channel")
    steps, counts = content["steps"], content["counts"]
    _expect(len(steps) == len(counts) > 0, "a channel with unequal or empty lists")
    _expect(all(type(step) is int and abs(step) <= 2 * MOST_BIN for step in steps), "a step that is none")
    _expect(all(step > 0 for step in steps[1:]), "bins that do not ascend")
    _expect(
        all(type(count) is int and 0 < count <= most for count in counts), "a bin of no or too many voxels"
    )
    numbers = np.cumsum(np.array(steps, dtype=np.int64)).tolist()
    rest = {name: content[name] for name in CHANNEL_FIELDS - {"steps", "counts"}}
    found = Channel(**rest, bins=dict(zip(numbers, counts, strict=True)))
    _expect(type(found.n) is int and found.n == sum(counts) <= most, "another number of voxels")
    _check_moments(found)
    _expect(
        [numbers[0], numbers[-1]] == bin_numbers([found.min, found.max]).tolist(),
        "a smallest or largest intensity in another bin",
    )
    return found


def _check_moments(channel: Channel) -> None:
    """Sums that intensities between the smallest and the largest can have."""
    sums = (channel.sum, channel.sum_of_squares, channel.min, channel.max)
    _expect(all(map(_is_real, sums)), "an intensity that is no number")
    largest = max(abs(channel.min), abs(channel.max))
    _expect(largest <= 2.0**MOST_EXPONENT, f"an intensity beyond 2^{MOST_EXPONENT}")
    slack = SLACK * channel.n * max(largest, 1e-30)
    _expect(
        channel.n * channel.min - slack <= channel.sum <= channel.n * channel.max + slack,
        "a sum that does not fit its smallest and largest intensity",
    )
    _expect(
        channel.sum**2 / channel.n <= channel.sum_of_squares * (1 + SLACK),
        "a sum of squares that is too small",
    )
    _expect(
        channel.sum_of_squares <= channel.n * largest**2 * (1 + SLACK),
        "a sum of squares that is too large",
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= MOST_CASES


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_measure(value: object) -> bool:
    return _is_real(value) and LEAST_MEASURE <= value <= MOST_MEASURE


def _is_spread(value: object) -> bool:
    return _is_real(value) and 0 <= value <= MOST_MEASURE


def _expect(is_good: bool, found: str) -> None:
    if not is_good:
        raise ValueError(found)
