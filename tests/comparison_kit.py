"""Finished runs as their commands leave them, with segmentations drawn by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from plans_kit import write_image

from nnunet_gml.comparison.runs import Predicted

SHAPE = (12, 20, 20)
SPACING_MM = (3.0, 1.0, 1.0)
LABELS = {"background": 0, "big": 1, "tiny": 2}
Box = tuple[slice, slice, slice]
BIG: Box = (slice(2, 8), slice(2, 14), slice(2, 14))
TINY: Box = (slice(9, 11), slice(16, 18), slice(4, 6))


def draw(*boxes: tuple[int, Box], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Labels: each value in its box, later ones over earlier ones."""
    labels = np.zeros(shape, np.uint8)
    for value, box in boxes:
        labels[box] = value
    return labels


def moved(box: Box, voxels: int) -> Box:
    """The same box further along the last axis."""
    return (*box[:2], slice(box[2].start + voxels, box[2].stop + voxels))


TRUTH = draw((1, BIG), (2, TINY))


def off_by(voxels: int) -> np.ndarray:
    """The truth with its big organ moved."""
    return draw((1, moved(BIG, voxels)), (2, TINY))


def write_cases(folder: Path, cases: Mapping[str, np.ndarray], spacing: Sequence[float] = SPACING_MM) -> Path:
    """One file for each case."""
    for case, labels in cases.items():
        write_image(folder / f"{case}.nii.gz", labels, spacing)
    return folder


def dataset(labels: Mapping[str, object] = LABELS, **others: object) -> dict[str, object]:
    """dataset.json."""
    return {"labels": dict(labels), "channel_names": {"0": "CT"}, "file_ending": ".nii.gz", **others}


def predicted(
    folder: Path,
    cases: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: Mapping[str, object] = LABELS,
    spacing: Sequence[float] = SPACING_MM,
    **facts: object,
) -> Predicted:
    """References and predictions, pair by pair, on disk."""
    references = write_cases(folder / "references", {case: pair[0] for case, pair in cases.items()}, spacing)
    predictions = write_cases(
        folder / "predictions", {case: pair[1] for case, pair in cases.items()}, spacing
    )
    whole = {"site": "north", "arm": "stock", "dataset": dataset(labels), **facts}
    return Predicted(predictions=predictions, references=references, **whole)


def write_raw_site(folder: Path, site: str, cases: Mapping[str, np.ndarray]) -> Path:
    """A raw dataset with held-out cases; images are not looked at."""
    raw = folder / f"Dataset{500 + len(site)}_{site}"
    write_cases(raw / "labelsTs", cases)
    (raw / "imagesTs").mkdir()
    (raw / "dataset.json").write_text(json.dumps(dataset()))
    return raw


def write_simulated(out: Path, arms: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> Path:
    """A run folder of ``simulate``: per arm (as `parse_arm` reads it) and site, predictions of the cases.

    Every reference is `TRUTH`. An arm ``NAME@SITE`` is the network of SITE on other sites' cases.
    """
    own = [words for words in arms if "@" not in words]
    sites = {site: cases for words in own for site, cases in arms[words].items()}
    raw = {
        site: write_raw_site(out / "raw", site, dict.fromkeys(cases, TRUTH)) for site, cases in sites.items()
    }
    for words, by_site in arms.items():
        for site, cases in by_site.items():
            write_cases(out / "sites" / site / "predictions" / words.split("=")[0], cases)
    recipe = {
        "datasets": [str(path) for path in raw.values()],
        "trainers": own,
        "epochs": 1,
        "iterations": 1,
        "seed": 1,
    }
    record = {"recipe": recipe, "sites": {site: str(path) for site, path in raw.items()}}
    (out / "run.json").write_text(json.dumps(record))
    return out
