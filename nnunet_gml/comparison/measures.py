"""Every case and class in figures: Dice, normalised surface Dice, HD95, volumes.

Where neither contour has the organ nothing is measured (nan). Where one lacks it, Dice and NSD are 0 and HD95
is nan: no distance can be told, and the summary says how often that was so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_gml.comparison.predicted import Predicted, classes_of
from nnunet_gml.comparison.segmentation import Segmentation, read_pair
from nnunet_gml.comparison.surfaces import Mask, surface_scores
from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

DEFAULT_TOLERANCE_MM = 2.0
"""About a slice of a planning CT, and by how much two physicians differ in most organs of head and neck."""
NAN = math.nan
Box = tuple[slice, ...]
Task = tuple[Path, Path, Mapping[str, Any]]
"""Reference, prediction, dataset.json."""


class Measured(NamedTuple):
    """One class of one case; volumes in ml, nan for flat images."""

    dice: float
    nsd: float
    hd95_mm: float
    reference_ml: float
    predicted_ml: float
    volume_error_ml: float
    absent_reference: bool
    absent_predicted: bool


WHERE = ("site", "arm", "trained_at", "case", "patient", "class")
COLUMNS = (*WHERE, *Measured._fields)


def measure(
    predicted: Sequence[Predicted],
    tolerance_mm: Mapping[str, float],
    jobs: int = 1,
    done: Callable[[], None] = lambda: None,
) -> DataFrame:
    """Measure every predicted case.

    Args:
        predicted: what to measure.
        tolerance_mm: of NSD, per class; `DEFAULT_TOLERANCE_MM` for others.
        jobs: processes; each holds one case at a time.
        done: called after every case.

    Returns:
        One row per site, arm, case and class; columns `COLUMNS`.

    Raises:
        ConfigError: prediction and reference of a case differ in size or spacing, or a process was killed.
    """
    from pandas import DataFrame

    cases = [(each, case) for each in predicted for case in each.cases]
    tasks = [(each.reference(case), each.prediction(case), each.dataset) for each, case in cases]
    rows: list[tuple[Any, ...]] = []
    for (each, case), measured in zip(cases, _all(tasks, tolerance_mm, jobs), strict=True):
        where = (each.site, each.arm, each.trained_at or each.site, case, each.patient(case))
        rows += [(*where, name, *values) for name, values in measured.items()]
        done()
    return DataFrame(rows, columns=list(COLUMNS))


def _all(
    tasks: Sequence[Task], tolerance_mm: Mapping[str, float], jobs: int
) -> Iterator[dict[str, Measured]]:
    work = partial(_measure_files, tolerance_mm=dict(tolerance_mm))
    if jobs <= 1:
        yield from map(work, tasks)
        return
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _use_one_thread) as pool:
            yield from pool.map(work, tasks)
    except BrokenProcessPool as error:
        raise ConfigError(
            "a process that measured was killed", "perhaps memory was short: try fewer --jobs"
        ) from error


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _measure_files(task: Task, tolerance_mm: Mapping[str, float]) -> dict[str, Measured]:
    reference, prediction, dataset = task
    pair = read_pair(reference, prediction, dataset)
    return measure_case(*pair, classes_of(dataset), tolerance_mm, dataset["labels"].get("ignore"))


def measure_case(
    reference: Segmentation,
    predicted: Segmentation,
    classes: Mapping[str, int | tuple[int, ...]],
    tolerance_mm: Mapping[str, float],
    ignore: int | None = None,
) -> dict[str, Measured]:
    """Measure all classes of one case.

    Voxels that the reference ignores belong to neither contour, as in nnU-Net's Dice; where both contours
    cross the border of the ignored part they are cut alike, so that there the surfaces agree.

    Args:
        reference: the reference.
        predicted: the prediction, on the same grid.
        classes: name to label, or to the labels of a region.
        tolerance_mm: of NSD, per class; `DEFAULT_TOLERANCE_MM` for others.
        ignore: the label of voxels that are not judged.
    """
    pair = (reference, predicted)
    boxes = [_boxes(each.labels) for each in pair]
    found = {}
    for name, labels in classes.items():
        values = [labels] if isinstance(labels, int) else list(labels)
        box = _around([each[value] for each in boxes for value in values if value in each])
        first, second = (np.isin(each.labels[box], values) for each in pair)
        if ignore is not None:
            is_judged = reference.labels[box] != ignore
            first, second = first & is_judged, second & is_judged
        found[name] = _measure(first, second, reference, tolerance_mm.get(name, DEFAULT_TOLERANCE_MM))
    return found


def _measure(reference: Mask, predicted: Mask, grid: Segmentation, tolerance_mm: float) -> Measured:
    counts = int(reference.sum()), int(predicted.sum())
    volumes = [count * grid.voxel_ml for count in counts]
    error, absent = volumes[1] - volumes[0], [count == 0 for count in counts]
    if all(absent):
        return Measured(NAN, NAN, NAN, volumes[0], volumes[1], NAN, True, True)
    dice = 2 * int((reference & predicted).sum()) / sum(counts)
    nsd, hd95_mm = (
        (0.0, NAN) if any(absent) else surface_scores(reference, predicted, grid.spacing_mm, tolerance_mm)
    )
    return Measured(dice, nsd, hd95_mm, volumes[0], volumes[1], error, absent[0], absent[1])


def _boxes(labels: npt.NDArray[np.int32]) -> dict[int, Box]:
    """Label to the smallest box around it."""
    from scipy.ndimage import find_objects

    return {label: box for label, box in enumerate(find_objects(labels), start=1) if box is not None}


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box around all boxes; an empty one around none."""
    if not boxes:
        return (slice(0, 0),)
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*boxes, strict=True)
    )
