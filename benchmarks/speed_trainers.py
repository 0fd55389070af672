"""nnU-Net's trainers on random data of the plans' shapes, alone and with a peer; no dataset is needed.

The trainers are the real ones and take their real steps. Image and reference are random (smooth blobs of
organs that fill less than a tenth of the patch); the networks are not trained, but told to see organs in as
few voxels as a trained one would, since the distillation only looks at voxels in which somebody sees one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from patch import random_patch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_gml import weights
from nnunet_gml.outputs import full_resolution
from nnunet_gml.planning.planned import Planned
from nnunet_gml.precision import mixed
from nnunet_gml.rounds import Meeting
from nnunet_gml.simulation.recipe import parse_arm
from nnunet_gml.trust import Scores
from peer_sync.site import Site

FOREGROUND = 0.08
"""Share of a patch's voxels in which the reference has an organ, as in head and neck."""
SEEN = 0.02
"""Share in which an untrained network is made to see one, at other places than the reference has it."""
APART = 0.01
"""How far the peer's weights are from ours, relative to their size."""
COARSER = 4
"""The blobs are drawn on a grid so much coarser."""
DICE = 0.8
Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to take a step.

    Attributes:
        words: what the tables call it.
        trainer: as `nnunet_gml.simulation.recipe.parse_arm` reads it.
        has_peer: whether a peer is here.
    """

    words: str
    trainer: str
    has_peer: bool = True


STOCK = "stock"
ARMS = {
    STOCK: Arm("stock", "nnUNetTrainer", has_peer=False),
    "alone": Arm("no peer (λ = 0)", "nnUNetTrainerGML", has_peer=False),
    "frozen": Arm("frozen", "nnUNetTrainerGMLFrozen"),
    "mutual": Arm("mutual", "nnUNetTrainerGML"),
    "low_memory": Arm("mutual, low memory", "low=nnUNetTrainerGML,low_memory=true"),
    "contrastive": Arm("contrastive", "nnUNetTrainerGCML"),
}


class TooLargeError(Exception):
    """Memory was too small, and the trainer went on with less than it was asked for."""


class Guest:
    """What a trainer with a courier would do when a peer's weights have come; goes in front of its class."""

    def meet(self, site: Site, batch: Batch) -> None:
        """Take in a peer that is `APART` from us, scored alike, and let its epoch begin."""
        trainer: Any = self
        trainer.site = site
        trainer.dataloader_val = SimpleNamespace(generator=repeat(batch))
        trainer.prepare()
        move(trainer.peer_network)
        scores = Scores(torch.full((len(trainer.classes),), DICE), torch.ones(len(trainer.classes)).bool())
        meeting = Meeting(
            peer=site.federation.peers_of(site.name)[0],
            round=trainer.ramp_rounds,
            sequence=1,
            distance=APART,
            cosine=1.0,
            epoch=0,
            classes=trainer.classes,
            theirs=scores,
            ours=scores,
            trust=torch.ones(len(trainer.classes)),
            weight=trainer.distillation_weight,
        )
        trainer.visit = trainer._visit(meeting)
        trainer.visit.begin_epoch(0)

    def check(self) -> None:
        """Raises `TooLargeError` if the peer was sent away, or is trained in two passes without an order."""
        trainer: Any = self
        if trainer.visit is None or trainer.method.in_two_passes != trainer.low_memory:
            raise TooLargeError


class Step:
    """A trainer of one arm, ready to take steps on one batch; its learning rate is 0, so it stays as it is.

    Args:
        arm: of `ARMS`.
        plan: patch, batch and network.
        batch: what nnU-Net's loader would give, see `random_batch`.
        site: has a peer in its federation.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, arm: Arm, plan: Planned, batch: Batch, site: Site, device: str) -> None:
        self.arm, self._batch = arm, batch
        self.trainer = new_trainer(arm, plan, device)
        self.trainer.network.train()
        learners = [(self.trainer.network, self.trainer.optimizer)]
        if arm.has_peer:
            self.trainer.meet(site, batch)
            learners.append((self.trainer.peer_network, self.trainer.visit.peer.learner.optimizer))
        for network, optimizer in learners:
            see_few_organs(weights.unwrap(network), batch["data"].to(device))
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        self._networks = [weights.unwrap(network) for network, _ in learners]

    def __call__(self) -> None:
        """One training step. Raises `torch.OutOfMemoryError`, `TooLargeError`."""
        self.trainer.train_step(self._batch)
        if self.arm.has_peer:
            self.trainer.check()

    def validate(self) -> None:
        """One validation step."""
        self.trainer.network.eval()
        with torch.no_grad():
            self.trainer.validation_step({**self._batch})
        self.trainer.network.train()

    def foreground(self) -> float:
        """Share of the voxels in which the reference or a network sees an organ."""
        device = self.trainer.device
        seen = self._batch["target"][0][:, 0].to(device) > 0
        for network in self._networks:
            with torch.no_grad(), mixed(device.type):
                logits = full_resolution(network.forward(self._batch["data"].to(device)))
            seen = seen | (logits.argmax(1) > 0)
        return float(seen.double().mean())

    def facts(self) -> dict[str, Any]:
        """Parameters of the network, and how long a training of this class is by default."""
        trainer = self.trainer
        names = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
        ours = ("warmup_epochs", "epochs_per_round", "mutual_epochs")
        known = {name: getattr(trainer, name) for name in (*names, *ours) if hasattr(trainer, name)}
        return {"parameters": sum(p.numel() for p in trainer.network.parameters()), **known}


def new_trainer(arm: Arm, plan: Planned, device: str) -> Any:  # noqa: ANN401 - nnU-Net's, not typed
    """The arm's trainer, initialised as nnU-Net does it."""
    wanted = parse_arm(arm.trainer)
    bases = (Guest,) if arm.has_peer else ()
    name = f"{wanted.name}_{'with' if arm.has_peer else 'without'}_peer"
    plans = {**copy.deepcopy(plan.plans), "continue_training": False}
    with redirect_stdout(StringIO()):
        base = recursive_find_trainer_class_by_name(wanted.trainer)
        cls = type(name, (*bases, base), dict(wanted.attributes))
        trainer = cls(plans, plan.configuration, 0, plan.dataset_json, torch.device(device))
        trainer.initialize()
    return trainer


def random_batch(plan: Planned, device: str) -> dict[str, Any]:
    """An image of noise, and the reference at all scales, as nnU-Net's loader gives them for this device."""
    trainer = new_trainer(ARMS[STOCK], plan, "cpu")
    classes = len(plan.dataset_json["labels"]) - 1
    patch, manager = list(trainer.configuration_manager.patch_size), trainer.configuration_manager
    shape = (trainer.batch_size, classes + 1, *(max(1, edge // COARSER) for edge in patch))
    target = random_patch(shape, FOREGROUND).target.float()
    targets = []
    for stride in manager.pool_op_kernel_sizes[:-1]:
        patch = [edge // step for edge, step in zip(patch, stride, strict=True)]
        targets.append(functional.interpolate(target, size=patch).to(torch.int16))
    data = torch.randn((trainer.batch_size, 1, *manager.patch_size))
    if device == "cuda":
        data, targets = data.pin_memory(), [scale.pin_memory() for scale in targets]
    return {"data": data, "target": targets}


def move(network: nn.Module) -> None:
    """Add noise of `APART` of their size to the weights."""
    with torch.no_grad():
        for tensor in weights.named_tensors(network).values():
            tensor.add_(APART * tensor.abs().mean() * torch.randn_like(tensor))


def see_few_organs(network: nn.Module, data: Tensor) -> None:
    """Raise the bias of the background until the network sees organs in a share `SEEN` of the voxels."""
    layers: Any = network.get_submodule("decoder.seg_layers")
    with torch.no_grad():
        with mixed(data.device.type):
            logits = full_resolution(network.forward(data))
        margin = (logits[:, 1:].amax(1) - logits[:, 0]).float().flatten()
        place = round((1 - SEEN) * (margin.numel() - 1))
        layers[-1].bias[0] += margin.sort().values[place]
