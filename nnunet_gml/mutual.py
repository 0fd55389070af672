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
    """A network and the optimiser that moves it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer


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
    scaler: torch.amp.GradScaler | None = None,
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
        scaler: the gradient scaler of mixed precision, shared by both optimisers; None on a CPU.
    """
    learners = [ours, peer.learner] if peer.learns else [ours]
    for learner in learners:
        learner.optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda") if data.device.type == "cuda" else nullcontext():
        output = ours.network(data)
        supervised = supervise(output, target)
        with nullcontext() if peer.learns else torch.no_grad():
            peer_output = peer.learner.network(data)
            peer_supervised = supervise(peer_output, target)
        pull, peer_pull = _pulls(output, peer_output, target, peer, distil)
    from_peer = peer.weight * pull + (peer_supervised + peer.weight * peer_pull if peer.learns else 0.0)
    if torch.isfinite(from_peer) and torch.isfinite(peer_supervised):
        _step(supervised + from_peer, learners, scaler)
    else:
        pull = torch.zeros_like(pull)
        _step(supervised, [ours], scaler)
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


def _step(loss: Tensor, learners: list[Learner], scaler: torch.amp.GradScaler | None) -> None:
    """Backward, clip each network on its own, step each optimiser."""
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
    for learner in learners:
        if scaler is not None:
            scaler.unscale_(learner.optimizer)
        nn.utils.clip_grad_norm_(learner.network.parameters(), GRADIENT_NORM)
        if scaler is None:
            learner.optimizer.step()
        else:
            scaler.step(learner.optimizer)
    if scaler is not None:
        scaler.update()
