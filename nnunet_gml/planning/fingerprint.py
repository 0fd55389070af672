"""What a site tells of its images so that all can plan as if the images lay together: sums and histograms."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_gml.json_files import read_json
from nnunet_gml.planning.histograms import bin_numbers, merged_bins
from peer_sync.errors import ConfigError

ALL_SAMPLES = 10e7
"""Foreground voxels that nnU-Net samples from a whole dataset, evenly from its cases."""
LEAST_CASES = 5
"""How many cases a bin has at least; a site with fewer cases cannot take part."""


@dataclass(frozen=True)
class Channel:
    """Sampled foreground intensities of one channel, of one case or of several.

    Attributes:
        n: how many.
        sum: of all.
        sum_of_squares: of all.
        min: smallest; 0 where there are none.
        max: largest; 0 where there are none.
        bins: numbers of the bins that are not empty, see `nnunet_gml.planning.histograms`, and how many
            are in each.
    """

    n: int
    sum: float
    sum_of_squares: float
    min: float
    max: float
    bins: dict[int, int]


@dataclass(frozen=True)
class Case:
    """What is kept of one case until the site's summary is made; never shown to anybody.

    Attributes:
        shape: voxels along each axis, without the empty border.
        spacing: mm along each axis.
        relative_size: the part of the image that is left without the border.
        channels: intensities.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    relative_size: float
    channels: tuple[Channel, ...]


def count_cases(raw: Path) -> int:
    """How many training cases a raw dataset has, counted as nnU-Net does. Raises `ConfigError`."""
    cases = len(_training_files(raw))
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
    files = _training_files(raw)
    if len(files) < least:
        raise ConfigError(
            f"{raw} has {len(files)} training cases, but a summary needs at least {least}: of fewer it would "
            "tell each one's shape",
            hint="take the plans of another site instead: nnunet-gml plans adopt",
        )
    cases = []
    for case in _analysed(raw, files, samples_per_case(all_cases), processes):
        cases.append(case)
        step()
    return {**_geometry(cases, least), "channels": [_content(channel) for channel in _channels(cases, raw)]}


def _training_files(raw: Path) -> dict[str, dict[str, Any]]:
    """Images and label of each case, by nnU-Net's own functions, without the one that forks processes."""
    from nnunetv2.utilities import utils

    description = read_json(raw / "dataset.json", "nnUNet_raw needs the dataset in nnU-Net's format")
    try:
        if "dataset" in description:
            return dict(utils.get_filenames_of_train_images_and_targets(str(raw), description))
        ending, images = description["file_ending"], str(raw / "imagesTr")
        names = utils.get_identifiers_from_splitted_dataset_folder(images, ending)
        listing = sorted(path.name for path in (raw / "imagesTr").iterdir())
        return {
            str(name): {
                "images": utils.create_paths_fn(images, listing, ending, name),
                "label": str(raw / "labelsTr" / f"{name}{ending}"),
            }
            for name in names
        }
    except (OSError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"{raw}: cannot list the training cases: {error}",
            hint="nnUNetv2_plan_and_preprocess --verify_dataset_integrity says what is wrong",
        ) from error


def _analysed(raw: Path, files: dict[str, dict[str, Any]], samples: int, processes: int) -> Iterable[Case]:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    first = next(iter(files.values()))["images"][0]
    description = read_json(raw / "dataset.json", "")
    reader = determine_reader_writer_from_dataset_json(description, first, verbose=False)
    tasks = [(case["images"], case["label"], reader, samples) for case in files.values()]
    with _mapping(processes) as mapping:
        yield from mapping(_analyse, tasks)


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterable[Case]]]:
    if processes < 2:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield pool.imap


def _analyse(task: tuple[list[str], str, type, int]) -> Case:
    """One case, by nnU-Net's own reader, crop and sampler."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    shape, spacing, intensities, _, size = DatasetFingerprintExtractor.analyze_case(*task)
    return Case(
        tuple(map(int, shape)), tuple(map(float, spacing)), float(size), tuple(map(_channel, intensities))
    )


def _channel(intensities: Sequence[float]) -> Channel:
    values = np.asarray(intensities, dtype=np.float64)
    if not len(values):
        return Channel(0, 0.0, 0.0, 0.0, 0.0, {})
    numbers, counts = np.unique(bin_numbers(values), return_counts=True)
    return Channel(
        n=len(values),
        sum=float(values.sum()),
        sum_of_squares=float(np.square(values).sum()),
        min=float(values.min()),
        max=float(values.max()),
        bins=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
    )


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
    found, counts = merged_bins(values, least)
    return {"values": found, "counts": counts}
