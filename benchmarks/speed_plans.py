"""Plans of nnU-Net's own planners for images that nobody has: description and fingerprint suffice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from nnunet_gml.installed import trainers_folder
from nnunet_gml.planning.planned import FINGERPRINT, Planned
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.shared_plans import small_configuration

DATASET_ID = 990
DATASET = f"Dataset{DATASET_ID}_Random"
FULL, SMALL = "3d_fullres", "3d_small"
DEFAULT_PLANS = "nnUNetPlans"
CASES, EDGE = 100, 256
"""So many images, of so many voxels of 1 mm along each axis: large enough for a patch without bounds."""
PLANNED_FOR = 2
"""Foreground classes that the planners hear of; for many classes nnU-Net would plan a smaller patch."""
INTENSITIES = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")
PATCHES = {False: ((32, 64, 64), (16, 32, 64, 64)), True: ((16, 32, 32), (4, 8, 8))}
"""The small configuration's patch and features; and in a quick run."""


@dataclass(frozen=True)
class Size:
    """A network and a patch.

    Attributes:
        words: what the tables call it.
        planner: nnU-Net's planner.
        plans: the name of its plans.
        configuration: of these plans; `SMALL` is added to the default ones.
    """

    words: str
    planner: str
    plans: str
    configuration: str = FULL


SIZES = {
    "small": Size("small", "ExperimentPlanner", DEFAULT_PLANS, SMALL),
    "standard": Size("standard 3d_fullres", "ExperimentPlanner", DEFAULT_PLANS),
    "resenc-l": Size("ResEnc-L 3d_fullres", "nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans"),
}


def plan(size: Size, folder: Path, quick: bool = False) -> None:
    """Let nnU-Net plan, unless it has; some seconds.

    Args:
        size: of `SIZES`.
        folder: holds nnU-Net's three folders, which this process uses from now on.
        quick: a small configuration that is even smaller.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

    use_folders(folder)
    place = folder / "nnUNet_preprocessed" / DATASET
    plans_file = place / f"{size.plans}.json"
    if not plans_file.exists():
        _write(folder / "nnUNet_raw" / DATASET / "dataset.json", description(PLANNED_FOR))
        _write(place / FINGERPRINT, fingerprint())
        with redirect_stdout(StringIO()):
            plan_experiments([DATASET_ID], size.planner)
    plans = json.loads(plans_file.read_text())
    patch, features = PATCHES[quick]
    recipe = Recipe((), (), 1, 1, seed=1, patch_size=patch, features=features, batch_size=2)
    plans["configurations"][SMALL] = small_configuration(plans, recipe)
    _write(plans_file, plans)
    _write(place / plans["configurations"][FULL]["data_identifier"] / "nothing.b2nd", {})


def planned(size: Size, classes: int, folder: Path) -> Planned:
    """The plans that `plan` has made, for so many foreground classes."""
    place = folder / "nnUNet_preprocessed" / DATASET
    plans = json.loads((place / f"{size.plans}.json").read_text())
    return Planned(DATASET, place, size.plans, plans, description(classes), size.configuration)


def use_folders(folder: Path) -> None:
    """Point nnU-Net at its three folders in ``folder``, and at our trainers."""
    os.environ["nnUNet_extTrainer"] = str(trainers_folder())
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder / name)


def description(classes: int) -> dict[str, Any]:
    """dataset.json of one image channel; the files that it lists are never read."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"organ-{number}": number for number in range(1, classes + 1)}},
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "numTraining": CASES,
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }


def fingerprint() -> dict[str, Any]:
    """Cubes of `EDGE` mm."""
    return {
        "spacings": [[1.0] * 3],
        "shapes_after_crop": [[EDGE] * 3],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(INTENSITIES, 1.0)},
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
