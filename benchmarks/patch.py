"""A made-up patch of a head-and-neck CT: smooth blobs of organs, as a reference and two networks see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

COARSE = 12
"""Voxels between two random numbers; what lies between is interpolated."""
SHARPNESS = 6.0
"""Logits of a trained network: sure inside an organ, unsure at its edge."""


@dataclass(frozen=True)
class Patch:
    """What the loss gets."""

    logits: Tensor
    peer_logits: Tensor
    target: Tensor

    @property
    def foreground(self) -> float:
        """Share of voxels in which anybody sees an organ."""
        seen = [self.target[:, 0] > 0]
        seen += [o[:, 1:].amax(1) > o[:, 0] for o in (self.logits, self.peer_logits)]
        return float(torch.stack(seen).any(0).double().mean())


def random_patch(shape: tuple[int, ...], foreground: float, seed: int = 0) -> Patch:
    """Blobs that cover about so much of the patch, seen alike by all but for their edges.

    Args:
        shape: ``(B, K, D, H, W)`` of the logits; channel 0 is the background.
        foreground: share of voxels that belong to any organ in the reference; at 1 there is no background.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = _smooth(shape, generator)
    truth[:, 0] = _background(truth, foreground)
    views = [SHARPNESS * truth.clone() for _ in range(2)]
    for view in views:
        view += _smooth(shape, generator)
        if foreground == 1:
            view[:, 0] = -3 * SHARPNESS
    return Patch(*views, truth.argmax(dim=1, keepdim=True).to(torch.int16))


def _background(truth: Tensor, foreground: float) -> Tensor:
    """The height that so many voxels exceed in some channel but the first."""
    highest = truth[:, 1:].amax(dim=1)
    place = round((1 - foreground) * (highest.numel() - 1))
    return highest.flatten().sort().values[place] - (1 if foreground == 1 else 0)


def _smooth(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise that changes over `COARSE` voxels."""
    coarse = [max(2, size // COARSE) for size in shape[2:]]
    noise = torch.randn((*shape[:2], *coarse), generator=generator)
    return functional.interpolate(noise, size=shape[2:], mode="trilinear", align_corners=True)
