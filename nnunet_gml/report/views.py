"""One slice of one case, with everybody's labels: which slice, which part of it, in which greys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nnunet_gml.comparison.predicted import Predicted

Array = np.ndarray[Any, Any]
REFERENCE = "reference"
MARGIN_SHARE, LEAST_MARGIN = 0.35, 4
CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue, as it is usual: level 40, width 400."""


@dataclass(frozen=True)
class View:
    """One slice of one case.

    Attributes:
        picture: ``(rows, columns)``, uint8.
        labels: the same shape; of the reference and of each method.
        classes: name to label, or to the labels of a region.
        aspect: height of a pixel relative to its width.
    """

    picture: Array
    labels: Mapping[str, Array]
    classes: Mapping[str, int | tuple[int, ...]]
    aspect: float

    @cached_property
    def present(self) -> list[str]:
        """The classes that anybody has in this slice."""
        return [name for name in self.classes if any(self.mask(title, name).any() for title in self.labels)]

    def mask(self, title: str, name: str) -> Array:
        """Where somebody has a class."""
        return np.isin(self.labels[title], self.classes[name])


def view_of(found: Mapping[str, Predicted], case: str) -> View | None:
    """The slice in which the methods together have the most wrong voxels, around all contours.

    Args:
        found: by method; all of one site.
        case: that all of them have predicted.

    Returns:
        None where the image is missing, cannot be read, or has another shape than the labels.
    """
    first = next(iter(found.values()))
    image = first.images / f"{case}_0000{first.dataset['file_ending']}" if first.images else None
    try:
        picture, aspect = _read(first, image, is_labels=False) if image else (np.empty(0), 1.0)
    except (OSError, RuntimeError, ValueError):  # missing, broken, or of another kind
        return None
    labels = {REFERENCE: _read(first, first.reference(case), is_labels=True)[0]}
    labels |= {arm: _read(each, each.prediction(case), is_labels=True)[0] for arm, each in found.items()}
    if any(each.shape != picture.shape for each in labels.values()):
        return None
    here = _most_wrong(labels)
    flat = {title: each[here] for title, each in labels.items()}
    part = _around(flat, first.classes, picture.shape[1:])
    channel = str(next(iter(first.dataset["channel_names"].values())))
    grey = _grey(picture[here][part], channel.upper() == "CT")
    return View(grey, {title: each[part] for title, each in flat.items()}, first.classes, aspect)


def _read(predicted: Predicted, path: Path, is_labels: bool) -> tuple[Array, float]:
    """Slices by rows by columns, as a radiologist looks at them, and height of a voxel relative to width."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    reader = determine_reader_writer_from_dataset_json(predicted.dataset, str(path), verbose=False)()
    data, facts = reader.read_seg(str(path)) if is_labels else reader.read_images([str(path)])
    volume = np.asarray(data[0])
    direction = facts.get("sitk_stuff", {}).get("direction", ())
    if len(direction) == 9:
        volume = volume[:, :: -1 if direction[4] < 0 else 1, :: -1 if direction[0] < 0 else 1]
    spacing = facts["spacing"]
    return volume, float(spacing[1] / spacing[2])


def _most_wrong(labels: Mapping[str, Array]) -> int:
    """The middle one where nothing is wrong."""
    wrong = np.sum([each != labels[REFERENCE] for each in labels.values()], axis=(0, 2, 3))
    return int(np.argmax(wrong)) if wrong.any() else len(wrong) // 2


def _around(
    labels: Mapping[str, Array], classes: Mapping[str, int | tuple[int, ...]], shape: Sequence[int]
) -> tuple[slice, slice]:
    """The part of a slice with contours, and some of what is around it."""
    wanted = [label for value in classes.values() for label in np.atleast_1d(value)]
    any_class = np.logical_or.reduce([np.isin(each, wanted) for each in labels.values()])
    spans = []
    for axis, size in enumerate(shape):
        places = np.flatnonzero(any_class.any(axis=1 - axis))
        low, high = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, size)
        margin = max(LEAST_MARGIN, int(MARGIN_SHARE * (high - low)))
        spans.append(slice(max(0, low - margin), min(size, high + margin)))
    return spans[0], spans[1]


def _grey(picture: Array, is_ct: bool) -> Array:
    low, high = CT_WINDOW_HU if is_ct else np.percentile(picture, (1, 99))
    scaled = (picture.astype(np.float64) - low) / max(float(high - low), 1e-9)
    return np.asarray((255 * np.clip(scaled, 0, 1)).astype(np.uint8))
