"""A training case as nnU-Net's own code reads and samples it; what is kept of it never leaves the site."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_gml.planning.histograms import MOST_EXPONENT, bin_numbers
from nnunet_gml.planning.planned import raw_description
from peer_sync.errors import ConfigError

Files = dict[str, Any]
"""nnU-Net's ``images`` (a path for each channel) and ``label`` (a path)."""


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


def training_files(raw: Path) -> dict[str, Files]:
    """Images and label of each case, by nnU-Net's own functions, without the one that forks processes.

    Raises:
        ConfigError: the dataset's folder or description is not as nnU-Net wants it.
    """
    from nnunetv2.utilities import utils

    description = raw_description(raw)
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


def analysed(raw: Path, files: Mapping[str, Files], samples: int, processes: int) -> Iterable[Case]:
    """Each case, read and sampled by nnU-Net's own code.

    Args:
        raw: nnUNet_raw/DATASET.
        files: of `training_files`.
        samples: foreground voxels to sample from each case.
        processes: how many cases are read at the same time.

    Raises:
        ConfigError: an image cannot be read; names it.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    first = next(iter(files.values()))["images"][0]
    description = raw_description(raw)
    with _telling(first):
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

    with _telling(task[0][0]):
        shape, spacing, intensities, _, size = DatasetFingerprintExtractor.analyze_case(*task)
        channels = tuple(map(_channel, intensities))
    return Case(tuple(map(int, shape)), tuple(map(float, spacing)), float(size), channels)


@contextmanager
def _telling(image: str) -> Iterator[None]:
    """What readers of images raise becomes a sentence that names the image."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the case of {image} cannot be used: {reason}",
            hint="nnUNetv2_plan_and_preprocess --verify_dataset_integrity looks at all cases",
        ) from error


def _channel(intensities: Sequence[float]) -> Channel:
    values = np.asarray(intensities, dtype=np.float64)
    if not len(values):
        return Channel(0, 0.0, 0.0, 0.0, 0.0, {})
    if not (np.abs(values) <= 2.0**MOST_EXPONENT).all():
        raise ValueError(f"an intensity is NaN, infinite or beyond 2^{MOST_EXPONENT}")
    numbers, counts = np.unique(bin_numbers(values), return_counts=True)
    return Channel(
        n=len(values),
        sum=float(values.sum()),
        sum_of_squares=float(np.square(values).sum()),
        min=float(values.min()),
        max=float(values.max()),
        bins=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
    )
