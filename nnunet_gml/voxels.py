"""Sums over chosen voxels of a patch, in pieces: the memory of a piece instead of a patch.

A sum over voxels needs no graph of the whole patch. Forward adds up the pieces and keeps nothing; backward
goes through each piece once more. So the largest thing ever held is the gradient itself.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

PIECE_VOXELS = 3 << 15
"""Voxels of a piece; with 16 channels a tensor of one piece holds 6 MiB in float32."""


class Places(NamedTuple):
    """N voxels of a batch, each named by two numbers; ``(N,)``, int64."""

    sample: Tensor
    voxel: Tensor
    """Counted through the sample's spatial axes, the last one fastest."""


class Sums(NamedTuple):
    """Sums over voxels, and how many voxels each of them has; both of the same shape."""

    values: Tensor
    counts: Tensor


Summand = Callable[[Tensor, Places], Sums]
"""From the logits ``(N, K)`` of some voxels, and their places, to the sums over these voxels."""


def places_in(mask: Tensor) -> Places:
    """The voxels of a mask ``(B, *spatial)``, bool, sample after sample."""
    return Places(*mask.flatten(1).nonzero(as_tuple=True))


def rows(tensor: Tensor, places: Places) -> Tensor:
    """The channels of some voxels, ``(B, K, *spatial)`` to ``(N, K)``, without copying the rest."""
    return tensor.flatten(2)[places.sample, :, places.voxel]


def sum_over(logits: Tensor, places: Places, summand: Summand) -> Sums:
    """Add up what ``summand`` says about the voxels at ``places``, with a gradient to ``logits``.

    Same numbers as ``summand(rows(logits, places), places)`` at once, but for rounding. What ``summand``
    gets is at least float32; its counts have no gradient.

    Args:
        logits: ``(B, K, *spatial)``.
        places: no place twice; may be empty.
        summand: a pure function, called again in backward.
    """
    return Sums(*_SumOverPieces.apply(logits, *places, summand))


class _SumOverPieces(torch.autograd.Function):
    """Forward without a graph; backward through one piece at a time."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        logits: Tensor,
        sample: Tensor,
        voxel: Tensor,
        summand: Summand,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, sample, voxel)
        ctx.summand = summand
        pieces = _pieces(Places(sample, voxel))
        values, counts = zip(*(summand(_precise(logits, at), at) for at in pieces), strict=True)
        total = torch.stack(counts).sum(dim=0)
        ctx.mark_non_differentiable(total)
        return torch.stack(values).sum(dim=0), total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        logits, *places = ctx.saved_tensors
        result = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for at in _pieces(Places(*places)):
            student = _precise(logits, at).requires_grad_()
            with torch.enable_grad():
                values, _ = ctx.summand(student, at)
            (slope,) = torch.autograd.grad(values, student, gradient)
            result.flatten(2)[at.sample, :, at.voxel] = slope.to(result.dtype)
        return result, None, None, None


def _pieces(places: Places) -> Iterator[Places]:
    """At least one, even if it is empty."""
    return map(Places, *(torch.split(numbers, PIECE_VOXELS) for numbers in places))


def _precise(tensor: Tensor, places: Places) -> Tensor:
    """`rows` in float32, or in float64 if it is that already."""
    chosen = rows(tensor.detach(), places)
    return chosen.to(torch.promote_types(chosen.dtype, torch.float32))
