"""Supervision at a site that does not contour every class of the federation.

A voxel that such a site calls background may well be a class it never contours, and stock nnU-Net would
learn "not that class" there. So supervision asks only what the contours answer: one of our classes, or
none of them. The idea is ConDistFL's (arXiv:2412.18833); the formulas are ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_gml.learners import Supervision
from nnunet_gml.outputs import Output


class _Channels(NamedTuple):
    """Which of the network's output channels go where."""

    merged: Tensor
    """Softmax: background and the classes nobody contours here; regions: none."""
    kept: Tensor
    """Output channels that stay as they are."""
    numbers: Tensor
    """Softmax: for each label number the number after merging. Regions: the target channels that stay."""


class MarginalBackground:
    r"""nnU-Net's loss, untouched, on what this site's contours can tell apart.

    Softmax: background :math:`z_0` and the classes :math:`U` that are not contoured here become one channel,

    .. math:: z'_0 = \mathrm{lse}_{k \in \{0\} \cup U}(z_k), \qquad p'_0 = p_0 + \sum_{k \in U} p_k

    followed by the contoured classes in their order. Labels are renumbered to match, a number of
    :math:`U` counts as background, and the ignore label keeps its number. Inside the merged channel
    nothing is pushed: the gradient of :math:`z_k, k \in U \cup \{0\}`, is that of :math:`z'_0` times
    :math:`p_k / p'_0`.

    Regions: the channels that are not contoured here are dropped from output and target.

    With every class contoured it is the loss itself, called with the same tensors.

    Args:
        loss: nnU-Net's, with or without its deep supervision wrapper.
        labelled: ``(C,)``, bool, the foreground classes (or regions) that this site contours.
        has_regions: the network's channels are nnU-Net regions (sigmoid), not labels (softmax).
        ignore_label: number of nnU-Net's ignore label, or None.

    Raises:
        ValueError: no class is contoured: there is nothing to supervise with.
    """

    def __init__(
        self, loss: Supervision, labelled: Tensor, has_regions: bool, ignore_label: int | None
    ) -> None:
        _check_any(labelled)
        self.loss = loss
        self.has_regions = has_regions
        self._ignore_label = ignore_label
        self._labelled = labelled.cpu()
        self._channels = self._choose()

    @property
    def hidden(self) -> Tensor:
        """``(C,)``, bool, the classes that may hide in the background."""
        return ~self._labelled

    def let_hide(self, classes: Tensor) -> None:
        """From now on these classes may hide in the background, too.

        Args:
            classes: ``(C,)``, bool.

        Raises:
            ValueError: no class would be left to supervise with.
        """
        labelled = self._labelled & ~classes.cpu()
        _check_any(labelled)
        self._labelled = labelled
        self._channels = self._choose()

    def _choose(self) -> _Channels | None:
        if bool(self._labelled.all()):
            return None
        choose = _region_channels if self.has_regions else _label_channels
        return choose(self._labelled, self._ignore_label)

    def __call__(self, output: Output, target: Output) -> Tensor:
        """The loss of one network's output.

        Args:
            output: logits ``(B, K, *spatial)``, or a list of them, one per scale.
            target: nnU-Net's target, one per scale. Softmax: label numbers ``(B, 1, *spatial)``. Regions:
                ``(B, C, *spatial)``, with an ignore label one more channel, last, that marks it.

        Returns:
            What nnU-Net's loss returns, a scalar.
        """
        channels = self._channels
        if channels is None:
            return self.loss(output, target)
        reduce = _reduced_regions if self.has_regions else _reduced_labels
        if isinstance(output, Tensor) and isinstance(target, Tensor):
            return self.loss(*reduce(output, target, channels))
        pairs = [reduce(*scale, channels) for scale in zip(output, target, strict=True)]
        return self.loss([logits for logits, _ in pairs], [reference for _, reference in pairs])


def _check_any(labelled: Tensor) -> None:
    if not bool(labelled.any()):
        raise ValueError("labelled is False for every class, but at least one must be contoured here")


def _label_channels(labelled: Tensor, ignore_label: int | None) -> _Channels:
    with_background = torch.cat([torch.tensor([True]), labelled])
    numbers = torch.where(with_background, with_background.cumsum(0) - 1, 0)
    if ignore_label is not None:
        numbers = torch.cat([numbers, numbers.new_tensor([ignore_label])])
    merged = ~with_background
    merged[0] = True
    return _Channels(merged.nonzero()[:, 0], 1 + labelled.nonzero()[:, 0], numbers)


def _region_channels(labelled: Tensor, ignore_label: int | None) -> _Channels:
    kept = labelled.nonzero()[:, 0]
    last = [] if ignore_label is None else [len(labelled)]
    return _Channels(kept.new_tensor([]), kept, torch.cat([kept, kept.new_tensor(last)]))


def _reduced_labels(output: Tensor, target: Tensor, channels: _Channels) -> tuple[Tensor, Tensor]:
    """Float32 whatever the output is: in half precision a sum of many small probabilities would be lost."""
    merged, kept, numbers = (part.to(output.device) for part in channels)
    background = output[:, merged].float().logsumexp(dim=1, keepdim=True)
    reference = numbers.to(target.dtype)[target.long()]
    return torch.cat([background, output[:, kept].float()], dim=1), reference


def _reduced_regions(output: Tensor, target: Tensor, channels: _Channels) -> tuple[Tensor, Tensor]:
    return output[:, channels.kept.to(output.device)], target[:, channels.numbers.to(target.device)]
