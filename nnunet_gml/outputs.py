"""A network's output: one tensor, or with deep supervision one tensor per scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Output = Tensor | list[Tensor]
"""A network's logits, or with deep supervision one tensor per scale, full resolution first."""


def scales_of(output: Output) -> Sequence[Tensor]:
    """All scales, full resolution first; the only output as the only scale."""
    return output if isinstance(output, (list, tuple)) else [output]


def full_resolution(output: Output) -> Tensor:
    """The first of the deep supervision outputs, or the only output."""
    return scales_of(output)[0]


def constant(output: Output) -> Output:
    """The same values without their graph."""
    return _each(output, Tensor.detach)


def moved(output: Output, device: torch.device) -> Output:
    """The same on a device; from page-locked memory it goes there while the GPU computes."""
    return _each(output, lambda scale: scale.to(device, non_blocking=True))


def _each(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    if isinstance(output, (list, tuple)):
        return [change(scale) for scale in output]
    return change(output)
