"""A tiny data set, planned and preprocessed by nnU-Net, and sites that train on it in this process."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from courier_kit import build_sites, wait_for
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_gml import weights
from nnunet_gml.exchange import Exchange
from nnunet_gml.gate import randomness_of
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.phantom import ORGANS, write_dataset
from nnunet_gml.planning.plans import plans_digest
from nnunet_gml.simulation.shared_plans import small_configuration
from nnunet_gml.simulation.workspace import Recipe
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import Facts
from peer_sync.site import Site, load_site

DATASET_ID = 901
CONFIGURATION = "3d_small"
PLANS = "nnUNetPlans"
IGNORE = len(ORGANS) + 1
MANY = "many configurations"
ONLY_REGIONS = "regions without an ignore label"
LABELS: Mapping[str, Mapping[str, object]] = {
    "labels": {},
    MANY: {},
    "ignore": {"labels": {"background": 0, **ORGANS, "ignore": IGNORE}},
    "regions": {
        "labels": {
            "background": 0,
            "organs": [1, 2, 3, 4, 5],
            "bone": [3],
            "paired": [4, 5],
            "ignore": IGNORE,
        },
        "regions_class_order": [1, 3, 4],
    },
    ONLY_REGIONS: {
        "labels": {"background": 0, "organs": [1, 2, 3, 4, 5], "bone": [3], "paired": [4, 5]},
        "regions_class_order": [1, 3, 4],
    },
}
"""Changes to dataset.json: plain labels, labels with an ignore label, regions with one and without."""
RECIPE = Recipe(
    datasets=(),
    trainers=(),
    epochs=1,
    iterations=1,
    seed=7,
    patch_size=(16, 24, 24),
    features=(4, 8, 8),
    batch_size=2,
)


def preprocess(folder: Path, kind: str) -> Path:
    """Four phantom cases through nnU-Net's own planning and preprocessing; the nnUNet_* folders' parent.

    In a process of its own: nnU-Net forks, and a fork among other tests' threads may never end.
    """
    environment = {**os.environ, **folders(folder)}
    command = [sys.executable, __file__, str(folder), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _preprocess_here(folder: Path, kind: str) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    raw = write_dataset(folder / "nnUNet_raw", DATASET_ID, "north", 3, training_cases=4, test_cases=1)
    description = json.loads((raw / "dataset.json").read_text()) | LABELS[kind]
    (raw / "dataset.json").write_text(json.dumps(description))
    if "ignore" in description["labels"]:
        for path in sorted((raw / "labelsTr").glob("*.nii.gz")):
            _ignore_a_slab(path)
    extract_fingerprint_dataset(DATASET_ID, num_processes=1)
    plan_experiment_dataset(DATASET_ID)
    plans_file = folder / "nnUNet_preprocessed" / raw.name / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"][CONFIGURATION] = small_configuration(plans, RECIPE)
    if kind == MANY:
        plans["configurations"] |= many_configurations(plans)
    plans_file.write_text(json.dumps(plans))
    configurations = ("2d_small", "3d_lowres_small", CONFIGURATION) if kind == MANY else (CONFIGURATION,)
    preprocess_dataset(DATASET_ID, configurations=configurations, num_processes=(1,) * len(configurations))
    splits = [{"train": ["north_000", "north_001", "north_002"], "val": ["north_003"]}]
    (plans_file.parent / "splits_final.json").write_text(json.dumps(splits))


def many_configurations(plans: Mapping) -> dict[str, dict]:
    """2d, residual encoder, and the cascade, all as small as the others."""
    flat = replace(RECIPE, configuration="2d", patch_size=(24, 24))
    small = plans["configurations"][CONFIGURATION]
    residual = copy.deepcopy(small)
    arguments = residual["architecture"]["arch_kwargs"]
    del arguments["n_conv_per_stage"]
    residual["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
    arguments |= {"n_blocks_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1]}
    return {
        "2d_small": small_configuration(plans, flat),
        "3d_resenc": residual,
        "3d_lowres_small": {
            "inherits_from": CONFIGURATION,
            "spacing": [6.0, 6.0, 6.0],
            "data_identifier": "nnUNetPlans_3d_lowres_small",
            "next_stage": "3d_cascade_small",
        },
        "3d_cascade_small": {"inherits_from": CONFIGURATION, "previous_stage": "3d_lowres_small"},
    }


def _ignore_a_slab(path: Path) -> None:
    image = SimpleITK.ReadImage(str(path))
    voxels = SimpleITK.GetArrayFromImage(image)
    voxels[:4] = IGNORE
    slab = SimpleITK.GetImageFromArray(voxels)
    slab.CopyInformation(image)
    SimpleITK.WriteImage(slab, str(path))


def folders(folder: Path, results: Path | None = None) -> dict[str, str]:
    """Variables that point nnU-Net at the folders, and keep it in one process and on the CPU."""
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return {
        **{name: str(folder / name) for name in names},
        "nnUNet_results": str(results or folder / "nnUNet_results"),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
    }


def use_folders(folder: Path, monkeypatch: pytest.MonkeyPatch, results: Path | None = None) -> None:
    """The same for this process."""
    for name, value in folders(folder, results).items():
        monkeypatch.setenv(name, value)


def plans_of(folder: Path, plans: str = PLANS) -> tuple[dict, dict]:
    """Plans and dataset.json of the preprocessed data set."""
    (base,) = (folder / "nnUNet_preprocessed").glob("Dataset*")
    content, dataset_json = (json.loads((base / f"{name}.json").read_text()) for name in (plans, "dataset"))
    return content, dataset_json


def build_trainer(
    cls: type,
    data: Path,
    epochs: int = 2,
    iterations: int = 2,
    configuration: str = CONFIGURATION,
    plans: str = PLANS,
):
    """The trainer as nnU-Net's command makes it, with a short run."""
    content, dataset_json = plans_of(data, plans)
    trainer = cls(
        {**content, "continue_training": False}, configuration, 0, dataset_json, torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = 1
    return trainer


def sites_for(
    folder: Path,
    data: Path,
    configuration: str = CONFIGURATION,
    names: tuple[str, ...] = ("north", "south"),
    plans: str = PLANS,
) -> dict[str, Site]:
    """Sites with the plans digest of the data set, reading each other's folder."""
    sites = build_sites(folder, names)
    text = (folder / "federation.toml").read_text()
    digest = plans_digest(*plans_of(data, plans), configuration)
    old = next(iter(sites.values())).federation.plans_digest
    (folder / "federation.toml").write_text(text.replace(old, digest))
    return {name: load_site(folder / f"{name}.toml") for name in sites}


def seed_everything(number: int = 0) -> None:
    """What both arms of a comparison begin with."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    torch.set_num_threads(1)


class WaitingTrainer(GossipTrainer):
    """Waits at the end of a round until the courier has brought something: a test has no time for chance."""

    warmup_epochs = 1
    epochs_per_round = 10
    mutual_epochs = 10
    gate_batches = 2

    def on_epoch_start(self) -> None:
        if self.current_epoch == self.warmup_epochs and self.ranks.is_first:
            wait_for_arrival(self.exchange)
        super().on_epoch_start()


def wait_for_arrival(exchange: Exchange) -> None:
    """Until the courier of this process holds whole weights for the trainer."""
    wait_for(lambda: exchange._courier._deliveries)


def wait_for_delivery(site: Site, seconds: float) -> None:
    """Until the inbox holds whole weights, whoever has brought them."""
    wait_for(lambda: any((site.folder / "inbox").glob("[a-z]*/*/weights.safetensors")), seconds)


def offer_network(site: Site, network: torch.nn.Module, classes: tuple[str, ...] = tuple(ORGANS)) -> None:
    """Publish a network's weights from the other site, as its trainer would."""
    mailbox = Mailbox(site)
    payload = mailbox.state / ".part-offer"
    dtype = weights.write(network, payload)
    facts = Facts(
        round=1,
        epoch=1,
        plans_digest=site.federation.plans_digest,
        schema_digest=weights.schema_digest(network),
        dtype=dtype,
        labelled=classes,
        cases=3,
        dice=dict.fromkeys(classes, 0.5),
    )
    mailbox.offer(payload, facts)
    mailbox.close()


def offer_like_a_peer(site: Site, data: Path, configuration: str = CONFIGURATION, plans: str = PLANS) -> None:
    """Publish what a peer may have: the federation's initial weights, moved by 1 %."""
    trainer = build_trainer(nnUNetTrainer, data, configuration=configuration, plans=plans)
    with randomness_of(site.federation.seed, "initial weights"):
        trainer.initialize()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in trainer.network.parameters():
            step = torch.randn(tensor.shape, generator=generator)
            tensor.add_(0.01 * tensor.abs().mean() * step)
    offer_network(site, trainer.network)


def stop_workers(trainer) -> None:
    """End the processes of nnU-Net's augmenters, as its on_train_end does."""
    for augmenter in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(augmenter, "_finish"):
            augmenter._finish()


if __name__ == "__main__":
    _preprocess_here(Path(sys.argv[1]), sys.argv[2])
