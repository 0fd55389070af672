"""What a site tells of its images so that all can plan as if the images lay together: sums and histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nnunet_gml.planning.cases import Case, Channel, analysed, training_files
from nnunet_gml.planning.histograms import merged_bins
from peer_sync.errors import ConfigError

ALL_SAMPLES = 10e7
"""Foreground voxels that nnU-Net samples from a whole dataset, evenly from its cases."""
LEAST_CASES = 5
"""How many cases a bin has at least; a site with fewer cases cannot take part."""


def count_cases(raw: Path) -> int:
    """How many training cases a raw dataset has, counted as nnU-Net does. Raises `ConfigError`."""
    cases = len(training_files(raw))
    if not cases:
        raise ConfigError(
            f"{raw}/imagesTr has no training cases", hint="put images there as nnU-Net wants them"
        )
    return cases


def samples_per_case(all_cases: int) -> int:
    """How many voxels nnU-Net samples from each case, if there are so many in all."""
    return int(ALL_SAMPLES // all_cases)


def summarise(
    raw: Path,
    all_cases: int,
    least: int = LEAST_CASES,
    processes: int = 1,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The content of a site's ``fingerprint`` document; nothing in it belongs to less than ``least`` cases.

    Args:
        raw: nnUNet_raw/DATASET.
        all_cases: training cases of all sites together; nnU-Net samples the fewer voxels from each.
        least: cases in a bin, at least.
        processes: how many cases are read at the same time.
        step: called after each case.

    Raises:
        ConfigError: the dataset cannot be read, has too few cases, or no foreground.
    """
    files = training_files(raw)
    if len(files) < least:
        raise ConfigError(
            f"{raw} has {len(files)} training cases, but a summary needs at least {least}: of fewer it would "
            "tell each one's shape",
            hint="take the plans of another site instead: nnunet-gml plans adopt",
        )
    cases = []
    for case in analysed(raw, files, samples_per_case(all_cases), processes):
        cases.append(case)
        step()
    return {**_geometry(cases, least), "channels": [_content(channel) for channel in _channels(cases, raw)]}


def together(channels: Iterable[Channel]) -> Channel:
    """Intensities of several cases, or sites, as one; the order does not matter, to the last bit.

    Raises:
        ValueError: there are none.
    """
    found = [channel for channel in channels if channel.n]
    if not found:
        raise ValueError("no intensities")
    bins: dict[int, int] = {}
    for channel in found:
        for number, count in channel.bins.items():
            bins[number] = bins.get(number, 0) + count
    return Channel(
        n=sum(channel.n for channel in found),
        sum=math.fsum(channel.sum for channel in found),
        sum_of_squares=math.fsum(channel.sum_of_squares for channel in found),
        min=min(channel.min for channel in found),
        max=max(channel.max for channel in found),
        bins=dict(sorted(bins.items())),
    )


def _channels(cases: Sequence[Case], raw: Path) -> list[Channel]:
    try:
        return [together(channels) for channels in zip(*(case.channels for case in cases), strict=True)]
    except ValueError as error:
        raise ConfigError(
            f"{raw}: no training case has foreground", hint="look at the labels in labelsTr"
        ) from error


def _content(channel: Channel) -> dict[str, Any]:
    """A channel as JSON; each bin's number is told as the distance from the one before."""
    numbers = list(channel.bins)
    steps = [number - before for before, number in zip([0, *numbers[:-1]], numbers, strict=True)]
    return {
        "n": channel.n,
        "sum": channel.sum,
        "sum_of_squares": channel.sum_of_squares,
        "min": channel.min,
        "max": channel.max,
        "steps": steps,
        "counts": list(channel.bins.values()),
    }


def _geometry(cases: Sequence[Case], least: int) -> dict[str, Any]:
    """Histograms of cases: along each axis of spacing, shape and their product, and of the relative size."""
    spacing, shape = ([getattr(case, name) for case in cases] for name in ("spacing", "shape"))
    extent = [
        tuple(mm * voxels for mm, voxels in zip(*pair, strict=True))
        for pair in zip(spacing, shape, strict=True)
    ]
    measured = {"spacing_mm": spacing, "shape_voxels": shape, "extent_mm": extent}
    histograms = {
        name: [_histogram(along, least) for along in zip(*values, strict=True)]
        for name, values in measured.items()
    }
    return {**histograms, "relative_size": _histogram([case.relative_size for case in cases], least)}


def _histogram(values: Sequence[float], least: int) -> dict[str, Any]:
    found = merged_bins(values, least)
    return {name: column.tolist() for name, column in vars(found).items()}
