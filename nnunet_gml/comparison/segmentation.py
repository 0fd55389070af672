"""Segmentations on disk, read as nnU-Net reads them, two of them on one grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peer_sync.errors import ConfigError

SAME_SPACING = 1e-3
"""Relative: headers hold spacings rounded in many ways."""


@dataclass(frozen=True)
class Segmentation:
    """Labels ``(z, y, x)`` and the size of a voxel; ``(y, x)`` where there is one slice only."""

    labels: npt.NDArray[np.int32]
    spacing_mm: tuple[float, ...]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel; nan for one slice, whose thickness is not known."""
        return math.prod(self.spacing_mm) / 1000 if len(self.spacing_mm) == 3 else math.nan

    def __str__(self) -> str:
        size = " x ".join(map(str, self.labels.shape))
        return f"{size} voxels of {' x '.join(f'{length:g}' for length in self.spacing_mm)} mm"


def read_pair(
    reference: Path, prediction: Path, dataset: Mapping[str, Any]
) -> tuple[Segmentation, Segmentation]:
    """Read two segmentations of one image.

    Origin and direction are not compared: nnU-Net does not, either, and labels are often saved without.

    Args:
        reference: file of the reference.
        prediction: file of the prediction.
        dataset: dataset.json, which says how to read them.

    Raises:
        ConfigError: one cannot be read, or they differ in size or spacing.
    """
    first, second = read_segmentation(reference, dataset), read_segmentation(prediction, dataset)
    if not _on_one_grid(first, second):
        raise ConfigError(
            f"{prediction} has {second}, but {reference} has {first}",
            "predictions and references need one grid: predict the images that the references belong to",
        )
    return first, second


def read_segmentation(path: Path, dataset: Mapping[str, Any]) -> Segmentation:
    """Read a segmentation as nnU-Net does.

    Raises:
        ConfigError: nnU-Net cannot read it.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    try:
        reader = determine_reader_writer_from_dataset_json(dict(dataset), verbose=False)()
        voxels, properties = reader.read_seg(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ConfigError(f"{path} cannot be read: {reason}", "is it a whole segmentation?") from error
    labels, spacing = voxels[0].astype(np.int32), tuple(map(float, properties["spacing"]))
    return Segmentation(labels[0], spacing[1:]) if len(labels) == 1 else Segmentation(labels, spacing)


def _on_one_grid(one: Segmentation, other: Segmentation) -> bool:
    same_size = one.labels.shape == other.labels.shape
    return same_size and np.allclose(one.spacing_mm, other.spacing_mm, rtol=SAME_SPACING, atol=0)
