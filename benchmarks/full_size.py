"""A network of nnU-Net's full size, trained for some minutes on the images of one simulated site.

For images as small as those of the hippocampus, nnU-Net plans four stages; for a common CT or MRI patch it
plans six, with 31 million parameters. This one has six stages, too, of which the last two keep the patch's
5x7x5 voxels instead of halving them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_gml.simulation.arms import class_name, write_arms
from nnunet_gml.simulation.commands import train
from nnunet_gml.simulation.processes import run_side_by_side
from nnunet_gml.simulation.scores import STOCK
from nnunet_gml.simulation.workspace import PLANS, Recipe, SiteSpace
from peer_sync.errors import ConfigError

CONFIGURATION = "3d_full_size"
FEATURES = (32, 64, 128, 256, 320, 320)
PATCH = (40, 56, 40)
HALVED_STAGES = 3
EPOCHS = 10


def train_full_size(source: SiteSpace, folder: Path, steps: int, threads: int) -> tuple[SiteSpace, Path]:
    """Train the full-size network with stock nnU-Net on the cases of one site.

    Args:
        source: a site whose cases are preprocessed.
        folder: where everything goes. A network that is there already is not trained again.
        steps: optimiser steps, a multiple of `EPOCHS`.
        threads: CPU threads.

    Returns:
        The same site in its new folder, and nnU-Net's folder of the model.

    Raises:
        ConfigError: the training failed.
    """
    recipe = Recipe((), (STOCK,), EPOCHS, steps // EPOCHS, seed=1, configuration=CONFIGURATION)
    site = SiteSpace(source.name, source.raw, folder)
    write_plans(source, site)
    write_arms(folder / "trainers", recipe, threads)
    job = train(site, folder / "trainers", recipe, STOCK)
    for outcome in run_side_by_side([job], 1, lambda: None, lambda _: None):
        if outcome.exit_code:
            raise ConfigError(
                f"the training of the full-size network ended with {outcome.reason()}",
                f"its log is {job.log}",
            )
    return site, site.model(class_name(STOCK), recipe)


def write_plans(source: SiteSpace, target: SiteSpace) -> None:
    """The site's preprocessed cases, linked, with one configuration more in the plans."""
    target.preprocessed.mkdir(parents=True, exist_ok=True)
    for path in source.preprocessed.iterdir():
        place = target.preprocessed / path.name
        if path.is_file():
            shutil.copyfile(path, place)
        elif not place.is_symlink():
            place.symlink_to(path.resolve())
    plans = plans_of(source)
    plans["configurations"][CONFIGURATION] = {
        "inherits_from": "3d_fullres",
        "patch_size": PATCH,
        "batch_size": 2,
        "architecture": six_stages(plans, HALVED_STAGES),
    }
    (target.preprocessed / f"{PLANS}.json").write_text(json.dumps(plans, indent=4))


def plans_of(site: SiteSpace) -> dict[str, Any]:
    """The site's plans file."""
    plans: dict[str, Any] = json.loads((site.preprocessed / f"{PLANS}.json").read_text())
    return plans


def six_stages(plans: Mapping[str, Any], halved_stages: int) -> dict[str, Any]:
    """The planned architecture with six stages, of which so many after the first halve the patch."""
    parent = plans["configurations"]["3d_fullres"]["architecture"]
    stages = len(FEATURES)
    kwargs = {
        **parent["arch_kwargs"],
        "n_stages": stages,
        "features_per_stage": FEATURES,
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[2, 2, 2] if 0 < stage <= halved_stages else [1, 1, 1] for stage in range(stages)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    return {**parent, "arch_kwargs": kwargs}
