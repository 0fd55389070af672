"""Who takes part in a step: our network, the peer's, and how they learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.outputs import Output

GRADIENT_NORM = 12.0
"""nnU-Net clips gradients to this norm; each network on its own."""


class Supervision(Protocol):
    """nnU-Net's own loss, untouched, or with the marginal background of partial labels."""

    def __call__(self, output: Output, target: Output) -> Tensor:
        """Loss of one network's output against the reference, all classes, all scales."""


@dataclass
class Learner:
    """A network, the optimiser that moves it, and in mixed precision its own gradient scaler.

    Two networks must not share a scaler: gradients of a peer that overflow would shrink ours to nothing.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times this network's gradient scale, if it has one."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(self, loss: Tensor) -> None:
        """Backward, clip and step, in nnU-Net's order."""
        self.scaled(loss).backward()  # type: ignore[no-untyped-call]
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()


@dataclass
class Peer:
    """The peer's network while we learn with it.

    Attributes:
        learner: the peer's weights in a network of our own, and a fresh optimiser for them.
        trust: ``(C,)``, how far we believe the peer in each class.
        trust_in_us: ``(C,)``, the same with the roles exchanged, for the peer's own learning.
        labelled: ``(C,)``, bool, classes that both sites contour.
        missing: ``(C,)``, bool, classes that only the peer's site contours; we learn them from it alone.
        weight: how much distillation counts beside supervision in this round (λ).
        learns: the peer's network learns too (mutual), or only teaches (frozen).
        damping: factor on the weight, at most 1; set when a step measures that the peer pulls too hard.
    """

    learner: Learner
    trust: Tensor
    trust_in_us: Tensor
    labelled: Tensor
    missing: Tensor
    weight: float
    learns: bool
    damping: float = 1.0


@dataclass(frozen=True)
class Method:
    """How a step is taken.

    Attributes:
        supervise: nnU-Net's loss.
        distil: the distillation loss.
        head_weights: weights of the distillation at each of deep supervision's outputs, full resolution
            first; outputs behind the last weight are left out.
        in_two_passes: one network at a time, in about half the memory, for one more forward of the peer.
    """

    supervise: Supervision
    distil: ClassWiseDistillation
    head_weights: tuple[float, ...] = (1.0,)
    in_two_passes: bool = False
