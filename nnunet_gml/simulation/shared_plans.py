"""One plan for all sites of a simulation, with a smaller configuration when one is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.workspace import PLANS, SiteSpace
from peer_sync.errors import ConfigError

SMALLEST_EDGE = 4
"""A stage is halved along an axis only if at least so many voxels remain."""

FEWEST_STAGES = 3
"""nnU-Net gives the coarsest output of the decoder weight 0: with one output alone the loss is nan."""


def share_plans(sites: Sequence[SiteSpace], recipe: Recipe) -> str:
    """Give the first site's plans to all sites and return their digest.

    Each site keeps its own fingerprint, dataset.json and, if the raw dataset has one, its
    splits_final.json (subjects with several scans must stay together).

    Raises:
        ConfigError: the plans lack the configuration, or cannot be made as small as asked for.
    """
    from nnunet_gml.planning.plans import plans_digest

    plans = json.loads((sites[0].preprocessed / f"{PLANS}.json").read_text())
    if recipe.configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise ConfigError(f"nnU-Net planned no configuration {recipe.configuration}", f"it planned {known}")
    if recipe.is_small():
        plans["configurations"][recipe.trained_configuration()] = small_configuration(plans, recipe)
    for site in sites:
        plans["dataset_name"] = site.dataset
        _write_json(site.preprocessed / f"{PLANS}.json", plans)
        for name in ("dataset.json", "splits_final.json"):
            if (site.raw / name).exists():
                shutil.copyfile(site.raw / name, site.preprocessed / name)
    return plans_digest(plans, raw_description(sites[-1].raw), recipe.trained_configuration())


def small_configuration(plans: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A configuration that inherits from the recipe's and overrides what the recipe asks for.

    Raises:
        ConfigError: the patch has another number of axes, or is too small for so many stages.
    """
    parent = _resolved(plans, recipe.configuration)
    patch = list(recipe.patch_size or parent["patch_size"])
    if len(patch) != len(parent["patch_size"]):
        raise ConfigError(
            f"--patch-size has {len(patch)} numbers, but {recipe.configuration} has "
            f"{len(parent['patch_size'])} axes",
            "give one number for each axis",
        )
    small: dict[str, Any] = {"inherits_from": recipe.configuration, "patch_size": patch}
    small["batch_size"] = recipe.batch_size or parent["batch_size"]
    if recipe.patch_size or recipe.features:
        small["architecture"] = _architecture(parent["architecture"], patch, recipe.features)
    if recipe.spacing:
        small["spacing"] = list(recipe.spacing)
        small["data_identifier"] = f"{plans['plans_name']}_{recipe.trained_configuration()}"
    return small


def _resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    found = dict(plans["configurations"][configuration])
    if "inherits_from" in found:
        return {**_resolved(plans, found["inherits_from"]), **found}
    return found


def halvings(patch: Sequence[int], most: int) -> list[list[int]]:
    """The stride of each stage, the first one 1: every axis is halved while it is even and long enough.

    >>> halvings([16, 8], most=9)
    [[1, 1], [2, 2], [2, 1]]
    """
    strides, edges = [[1] * len(patch)], list(patch)
    while len(strides) < most:
        stride = [2 if edge % 2 == 0 and edge // 2 >= SMALLEST_EDGE else 1 for edge in edges]
        if max(stride) == 1:
            break
        edges = [edge // factor for edge, factor in zip(edges, stride, strict=True)]
        strides.append(stride)
    return strides


def _architecture(
    parent: Mapping[str, Any], patch: Sequence[int], features: Sequence[int] | None
) -> dict[str, Any]:
    kwargs = dict(parent["arch_kwargs"])
    wanted = len(features or kwargs["features_per_stage"])
    strides = halvings(patch, wanted)
    if features and len(strides) < wanted:
        raise ConfigError(
            f"a patch of {'x'.join(map(str, patch))} voxels allows {len(strides)} stages, "
            f"but --features names {wanted}",
            "give fewer features, or a patch that can be halved more often",
        )
    stages = len(strides)
    if stages < FEWEST_STAGES:
        raise ConfigError(
            f"a network of {stages} stages, but nnU-Net's deep supervision needs {FEWEST_STAGES}",
            "name more --features, or give a patch that can be halved more often",
        )
    kwargs["n_stages"] = stages
    kwargs["features_per_stage"] = list(features or kwargs["features_per_stage"])[:stages]
    kwargs["strides"] = strides
    kwargs["kernel_sizes"] = kwargs["kernel_sizes"][:stages]
    kwargs["kernel_sizes"] += [[3] * len(patch)] * (stages - len(kwargs["kernel_sizes"]))
    for name, count in (
        ("n_conv_per_stage", stages),
        ("n_blocks_per_stage", stages),
        ("n_conv_per_stage_decoder", stages - 1),
    ):
        if name in kwargs:
            kwargs[name] = (list(kwargs[name]) + [2] * stages)[:count]
    return {**parent, "arch_kwargs": kwargs}


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) + "\n")
