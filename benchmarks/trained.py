"""Networks that nnU-Net has trained, and held-out cases as those networks see them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from reconstruction import Case, Model
from torch import nn

from nnunet_gml import weights
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.workspace import Recipe, SiteSpace


def read_run(run: Path) -> tuple[Recipe, list[SiteSpace]]:
    """Recipe and sites of a finished simulation, wherever its folder lies now."""
    record = json.loads((run / "run.json").read_text())
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in record["recipe"].items()}
    places = {name: run / "raw" / Path(raw).name for name, raw in record["sites"].items()}
    sites = [SiteSpace(name, raw, run / "sites" / name) for name, raw in places.items()]
    return Recipe(**settings), sites


class Trained:
    """A model folder of nnU-Net, opened by nnU-Net's own predictor.

    Args:
        folder: the model's folder; the checkpoint was made on this machine.
        variables: environment in which nnU-Net finds the trainer's class.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], fold: str = "0") -> None:
        os.environ.update(variables)
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        self.checkpoint_bytes = (folder / f"fold_{fold}" / "checkpoint_final.pth").stat().st_size
        self._predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        self._predictor.initialize_from_trained_model_folder(str(folder), (fold,))
        configuration = self._predictor.configuration_manager
        self.model = Model(
            self._predictor.network,
            tuple(configuration.patch_size),
            divisor_of(configuration.network_arch_init_kwargs),
        )

    def cases(self, site: SiteSpace) -> list[Case]:
        """The site's held-out cases, preprocessed by nnU-Net for this network."""
        predictor = self._predictor
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        ending = raw_description(site.raw)["file_ending"]
        cases = []
        for labels in sorted((site.raw / "labelsTs").glob(f"*{ending}")):
            stem = labels.name.removesuffix(ending)
            channels = sorted((site.raw / "imagesTs").glob(f"{stem}_[0-9][0-9][0-9][0-9]{ending}"))
            image, seg, _ = preprocessor.run_case(
                [str(path) for path in channels],
                str(labels),
                predictor.plans_manager,
                predictor.configuration_manager,
                predictor.dataset_json,
            )
            cases.append(Case(torch.as_tensor(image), torch.as_tensor(seg[0])))
        return cases


def divisor_of(kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """By how many voxels per axis the image's edges must be divisible.

    >>> divisor_of({"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]})
    (2, 4, 4)
    """
    return tuple(prod(axis) for axis in zip(*kwargs["strides"], strict=True))


def untrained(architecture: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """A network as a plans file describes it, with random weights: good for counting bytes."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    network: nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels,
        classes,
        allow_init=False,
    )
    return network


def parameters(network: nn.Module) -> int:
    """Numbers in a network, each counted once."""
    return sum(tensor.numel() for tensor in weights.named_tensors(network).values())
