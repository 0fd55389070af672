"""One training step of two networks on the same batch: both learn from the data and from each other."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nnunet_gml.distillation import ClassWiseDistillation

GRADIENT_NORM = 12.0
"""nnU-Net clips gradients to this norm; each network on its own."""

Output = Tensor | list[Tensor]
"""A network's logits, or with deep supervision one tensor per scale, full resolution first."""


class Supervision(Protocol):
    """nnU-Net's own loss, untouched."""

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


@dataclass
class Peer:
    """The peer's network while we learn with it.

    Attributes:
        learner: the peer's weights in a network of our own, and a fresh optimiser for them.
        trust: ``(C,)``, how far we believe the peer in each class.
        trust_in_us: ``(C,)``, the same with the roles exchanged, for the peer's own learning.
        labelled: ``(C,)``, bool, classes that both sites contour.
        weight: how much distillation counts beside supervision in this round (λ).
        learns: the peer's network learns too (mutual), or only teaches (frozen).
    """

    learner: Learner
    trust: Tensor
    trust_in_us: Tensor
    labelled: Tensor
    weight: float
    learns: bool


def full_resolution(output: Output) -> Tensor:
    """The first of the deep supervision outputs, or the only output."""
    return output[0] if isinstance(output, (list, tuple)) else output


class StepLosses(NamedTuple):
    """What one step cost, detached scalars."""

    supervised: Tensor
    """nnU-Net's loss of our network; comparable with stock nnU-Net's."""
    distillation: Tensor
    """The pull of the peer on us before the weight; 0 where the peer was left out."""


def train_with_peer(
    data: Tensor,
    target: Output,
    ours: Learner,
    peer: Peer,
    supervise: Supervision,
    distil: ClassWiseDistillation,
) -> StepLosses:
    """Take one optimiser step with our network, and with the peer's if it learns.

    The losses are nnU-Net's own plus the distillation from the other network's output, held constant.
    The two graphs are disjoint, so one backward serves both. A peer whose losses are not finite is left
    out of this step; ours goes on alone, exactly as stock nnU-Net would.

    Args:
        data: images ``(B, C_in, *patch)`` on the networks' device.
        target: nnU-Net's target, on the same device.
        ours: our network and its optimiser.
        peer: the peer's, with the trust per class.
        supervise: nnU-Net's loss.
        distil: the distillation loss.
    """
    for learner in (ours, peer.learner):
        learner.optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda") if data.device.type == "cuda" else nullcontext():
        output = ours.network(data)
        supervised = supervise(output, target)
        with nullcontext() if peer.learns else torch.no_grad():
            peer_output = peer.learner.network(data)
        peer_loss = supervise(peer_output, target) if peer.learns else torch.zeros_like(supervised)
        pull, peer_pull = _pulls(output, peer_output, target, peer, distil)
        peer_loss = peer_loss + peer.weight * peer_pull
    if not torch.isfinite(pull + peer_loss):
        _step([(supervised, ours)])
        return StepLosses(supervised.detach(), torch.zeros_like(pull))
    steps = [(supervised + peer.weight * pull, ours)]
    _step([*steps, (peer_loss, peer.learner)] if peer.learns else steps)
    return StepLosses(supervised.detach(), pull.detach())


def _pulls(
    output: Output, peer_output: Output, target: Output, peer: Peer, distil: ClassWiseDistillation
) -> tuple[Tensor, Tensor]:
    """Distillation of the peer into us, and of us into the peer (0 if it only teaches)."""
    logits, peer_logits, reference = (full_resolution(o) for o in (output, peer_output, target))
    nothing = torch.zeros((), device=logits.device)
    if peer.weight == 0:
        return nothing, nothing
    pull = distil(logits, peer_logits, reference, peer.trust, peer.labelled)
    if not peer.learns:
        return pull, nothing
    return pull, distil(peer_logits, logits, reference, peer.trust_in_us, peer.labelled)


def _step(steps: list[tuple[Tensor, Learner]]) -> None:
    """One backward over disjoint graphs; then clip, step and rescale each network on its own."""
    torch.autograd.backward([loss if who.scaler is None else who.scaler.scale(loss) for loss, who in steps])
    for _, who in steps:
        if who.scaler is None:
            nn.utils.clip_grad_norm_(who.network.parameters(), GRADIENT_NORM)
            who.optimizer.step()
        else:
            who.scaler.unscale_(who.optimizer)
            nn.utils.clip_grad_norm_(who.network.parameters(), GRADIENT_NORM)
            who.scaler.step(who.optimizer)
            who.scaler.update()
