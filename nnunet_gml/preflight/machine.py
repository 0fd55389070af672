"""Whether this machine is large enough: the trainer is found, the disks have room, the GPU has memory."""

from __future__ import annotations

import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nnunet_gml.planning.planned import Planned, folder_of
from nnunet_gml.planning.planned_network import planned_network
from nnunet_gml.preflight.memory import Need
from nnunet_gml.weights import payload_bytes
from peer_sync.doctor.findings import FAILED, OK, UNKNOWN, WARNING, Result
from peer_sync.errors import ConfigError
from peer_sync.site import Site

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

GIB = 1 << 30
CHECKPOINTS = 5
"""latest, best and final; one that is being written; and in the latest one a peer with its momentum."""
CHECKPOINT_BYTES = 8
"""Per parameter: weight and momentum, float32."""
OFFERS = 6
"""Three of ours, one that is being written, and two that have come."""
WAYS = ("stock", "frozen", "low_memory", "mutual")


def find_trainer(name: str) -> type[nnUNetTrainer] | None:
    """The class, through nnU-Net's own look-up; None where it finds none."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with redirect_stdout(StringIO()):  # it tells where it looks
            found: type[nnUNetTrainer] = recursive_find_trainer_class_by_name(name)
    except RuntimeError:
        return None
    return found


def check_trainer(name: str, found: type[nnUNetTrainer] | None) -> Result:
    """nnU-Net knows the trainer."""
    if found is None:
        advice = (
            f"nnU-Net does not find the trainer {name}. Please set its variable for external trainers: "
            'export nnUNet_extTrainer="$(nnunet-gml trainers)", and look at the spelling.'
        )
        return Result(FAILED, f"{name} is not found", "a trainer that nnU-Net finds", advice)
    return Result(OK, f"{name}, with a peer: {way_of(found)}")


def way_of(trainer: type[nnUNetTrainer] | None) -> str:
    """Which of `WAYS` a trainer goes when a peer is there."""
    if trainer is None:
        return "mutual"
    if not hasattr(trainer, "peer_learns"):
        return "stock"
    if not trainer.peer_learns:
        return "frozen"
    return "low_memory" if trainer.low_memory else "mutual"


def check_gpu(need: Need, way: str, own_bytes: int | None = None) -> Result:
    """The GPU's memory against what a step needs.

    Args:
        need: from `nnunet_gml.preflight.memory.estimate`.
        way: what the trainer does with a peer, one of `WAYS`.
        own_bytes: memory of the GPU; None asks the first one here.
    """
    told = (
        f"one network needs about {need.stock / GIB:.1f} GiB, with a peer {getattr(need, way) / GIB:.1f} GiB "
        f"({way}); frozen {need.frozen / GIB:.1f}, low_memory {need.low_memory / GIB:.1f}, "
        f"mutual {need.mutual / GIB:.1f}"
    )
    if own_bytes is None:
        if not torch.cuda.is_available():
            return Result(UNKNOWN, f"no GPU on this machine; {told}")
        own_bytes = torch.cuda.get_device_properties(0).total_memory
    found = f"{own_bytes / GIB:.1f} GiB on the GPU; {told}"
    if need.stock > own_bytes:
        advice = "Even stock nnU-Net does not fit. Please use plans for less memory, or another GPU."
        return Result(FAILED, found, f"{need.stock / GIB:.1f} GiB", advice)
    if getattr(need, way) <= own_bytes:
        return Result(OK, found)
    return Result(WARNING, found, f"{getattr(need, way) / GIB:.1f} GiB", _smaller(need, own_bytes))


def _smaller(need: Need, own_bytes: int) -> str:
    """Which way fits instead."""
    if need.low_memory <= own_bytes:
        return (
            "Two networks at once do not fit, one after the other they do. Please set low_memory = True in a "
            "variant of the trainer (docs/how-to/variants.md); it takes longer. Otherwise the training finds "
            "out by itself in its first step with a peer, and says so."
        )
    if need.frozen <= own_bytes:
        return "Two learning networks do not fit, a teaching one does. Please use nnUNetTrainerGMLFrozen."
    return (
        "A peer's network does not fit beside ours, so every round would go on without its peer. Please use "
        "a GPU with more memory, or agree with all sites on plans for less."
    )


def check_disks(site: Site, plan: Planned) -> list[tuple[str, Result]]:
    """Room for checkpoints and for offers."""
    network = planned_network(plan)
    parameters = sum(p.numel() for p in network.parameters())
    needs = [("disk, offers", site.folder, OFFERS * payload_bytes(network)[site.payload])]
    try:
        results = folder_of("nnUNet_results")
    except ConfigError as error:
        return [
            ("disk, results", Result(FAILED, str(error), advice=f"Please {error.hint}.")),
            _disk(*needs[0]),
        ]
    needs.insert(0, ("disk, results", results, CHECKPOINTS * CHECKPOINT_BYTES * parameters))
    return [_disk(*need) for need in needs]


def _disk(name: str, folder: Path, needed_bytes: int) -> tuple[str, Result]:
    free = shutil.disk_usage(_existing(folder)).free
    found = f"{free / GIB:.1f} GiB free for {folder}, about {needed_bytes / GIB:.1f} GiB needed"
    if free >= needed_bytes:
        return name, Result(OK, found)
    advice = f"Please make room on the disk of {folder}, or choose another folder."
    return name, Result(FAILED, found, f"{needed_bytes / GIB:.1f} GiB", advice)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
