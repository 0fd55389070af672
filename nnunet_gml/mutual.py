"""One training step of two networks on the same batch: both learn from the data and from each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_gml.distillation import Pull
from nnunet_gml.learners import Learner, Method, Peer
from nnunet_gml.outputs import Output, constant, full_resolution, scales_of
from nnunet_gml.precision import mixed


class StepReport(NamedTuple):
    """What one step cost; detached, on the networks' device."""

    supervised: Tensor
    """Scalar, nnU-Net's loss of our network; comparable with stock nnU-Net's."""
    distillation: Tensor
    """Scalar, the pull of the peer on us before the weight; 0 where the peer was left out."""
    voxels: Tensor
    """``(C,)``, int64, size of each class's mask at full resolution; 0 where the peer was left out."""
    ratio: Tensor
    """Scalar, how hard the peer pulls relative to supervision, before damping; nan unless measured."""


class PeerTooLargeError(Exception):
    """Memory ran out in the peer's part of a step; ours is done, and `report` says what it cost."""

    def __init__(self, report: StepReport) -> None:
        super().__init__("out of memory in the peer's part of a training step")
        self.report = report


def train_with_peer(
    data: Tensor,
    target: Output,
    ours: Learner,
    peer: Peer,
    method: Method,
    measure: bool = False,
    agree: Callable[[bool], bool] = bool,
) -> StepReport:
    """Take one optimiser step with our network, and with the peer's if it learns.

    The losses are nnU-Net's own plus the distillation from the other network's output, held constant. A
    peer whose losses are not finite is left out of this step; ours goes on alone, exactly as stock nnU-Net
    would. In two passes the numbers are the same, if running a network twice changes nothing in it (no
    dropout, no batch normalisation).

    Args:
        data: images ``(B, C_in, *patch)`` on the networks' device.
        target: nnU-Net's target, on the same device.
        ours: our network and its optimiser.
        peer: the peer's, with the trust per class.
        method: losses, and how the step is taken.
        measure: measure the ratio of the pull to supervision, and from this step on divide the peer's
            weight by it where it is above 1.
        agree: from "the peer is finite here" to "it is finite in all processes of a distributed training";
            called once a step. By default there is one process.

    Raises:
        PeerTooLargeError: our step is taken, the peer's is not.
        torch.OutOfMemoryError: neither is.
    """
    for learner in (ours, peer.learner):
        learner.optimizer.zero_grad(set_to_none=True)
    return _Step(data, target, ours, peer, method).take(measure, agree)


@dataclass(frozen=True)
class _Step:
    data: Tensor
    target: Output
    ours: Learner
    peer: Peer
    method: Method

    def take(self, measure: bool, agree: Callable[[bool], bool]) -> StepReport:
        """Our step, then the peer's; what is left of ours in a second pass is its output."""
        report, output, peer_loss = self._our_step(measure, agree)
        if peer_loss is None:
            return report
        try:
            if self.method.in_two_passes:
                with mixed(self.data.device.type):
                    peer_loss = self._loss_of_peer(self.peer.learner.network(self.data), output)
            self.peer.learner.step(peer_loss)
        except torch.OutOfMemoryError as error:
            raise PeerTooLargeError(report) from error
        return report

    def _our_step(
        self, measure: bool, agree: Callable[[bool], bool]
    ) -> tuple[StepReport, Output, Tensor | None]:
        """What it cost; our output, constant; the peer's loss, if the peer is to step with it.

        With a graph in one pass; in the first of two passes the loss is there to be checked only.
        """
        learns, keeps_graph = self.peer.learns, self.peer.learns and not self.method.in_two_passes
        with mixed(self.data.device.type):
            with torch.set_grad_enabled(keeps_graph):
                peer_output = self.peer.learner.network(self.data)
            output = self.ours.network(self.data)
            supervised = self.method.supervise(output, self.target)
        ratio = self._damp(output, peer_output) if measure else supervised.new_full((), torch.nan)
        with mixed(self.data.device.type):
            pull = self._pull_on_us(output, peer_output)
            with torch.set_grad_enabled(keeps_graph):
                peer_loss = self._loss_of_peer(peer_output, output) if learns else pull.loss.detach()
        if not agree(bool(torch.isfinite(pull.loss + peer_loss))):
            self.ours.step(supervised)
            none = Pull(torch.zeros_like(pull.loss), torch.zeros_like(pull.voxels))
            return StepReport(supervised.detach(), *none, ratio), constant(output), None
        self.ours.step(supervised + self._weight * pull.loss)
        report = StepReport(supervised.detach(), pull.loss.detach(), pull.voxels, ratio)
        return report, constant(output), peer_loss if learns else None

    @property
    def _weight(self) -> float:
        return self.peer.weight * self.peer.damping

    def _pull_on_us(self, output: Output, peer_output: Output) -> Pull:
        return self._pull(output, peer_output, self.peer.trust, self.peer.labelled, self.peer.missing)

    def _loss_of_peer(self, peer_output: Output, output: Output) -> Tensor:
        """Supervision and our pull on the peer; we teach it nothing that only its own site contours."""
        pull = self._pull(peer_output, output, self.peer.trust_in_us, self.peer.labelled, None)
        return self.method.supervise(peer_output, self.target) + self._weight * pull.loss

    def _pull(
        self, output: Output, teacher: Output, trust: Tensor, labelled: Tensor, missing: Tensor | None
    ) -> Pull:
        """The distillation at every weighted scale; the voxels are those of the finest."""
        if self.peer.weight == 0:
            return Pull(torch.zeros((), device=trust.device), torch.zeros_like(trust, dtype=torch.int64))
        scales = zip(scales_of(output), scales_of(teacher), scales_of(self.target), strict=True)
        pulls = [
            (weight, self.method.distil(*scale, trust, labelled, missing))
            for weight, scale in zip(self.method.head_weights, scales, strict=False)
            if weight
        ]
        loss = torch.stack([weight * pull.loss for weight, pull in pulls]).sum()
        return Pull(loss, pulls[0][1].voxels)

    def _damp(self, output: Output, peer_output: Output) -> Tensor:
        r"""Measure the ratio, and set the damping by it where it is finite and above 0.

        .. math:: \rho = \|\partial \lambda L_{dist} / \partial z\|_1 / \|\partial L_{sup} / \partial z\|_1

        at the full resolution's logits :math:`z`.
        """
        leaves = constant(output)
        for leaf in scales_of(leaves):
            leaf.requires_grad_()
        with mixed(self.data.device.type):
            losses = (self.method.supervise(leaves, self.target), self._pull_on_us(leaves, peer_output).loss)
        supervision, pull = (self._slope(loss, full_resolution(leaves)) for loss in losses)
        ratio = self.peer.weight * pull / supervision
        if torch.isfinite(ratio) and ratio > 0:
            self.peer.damping = 1 / max(1.0, float(ratio))
        return ratio

    def _slope(self, loss: Tensor, logits: Tensor) -> Tensor:
        """Sum of the absolute gradient, in units of our gradient scale; 0 where there is no graph."""
        if not loss.requires_grad:
            return torch.zeros_like(loss)
        (gradient,) = torch.autograd.grad(self.ours.scaled(loss), logits)
        norm: Tensor = torch.linalg.vector_norm(gradient, 1, dtype=torch.float32)
        return norm
