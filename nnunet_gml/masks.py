"""Where each class is compared: masks from the reference, our network's output and the peer's."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nnunet_gml.voxels import Places, places_in, rows

MaskKind = Literal["gt", "union", "agree"]
MASK_KINDS: tuple[MaskKind, ...] = ("gt", "union", "agree")
SURE = 0.8
"""A class without contours here is learnt where the peer says yes or no to it and is as sure as this."""


class Says(NamedTuple):
    """Who says what at N voxels, each ``(N, C)``, bool."""

    reference: Tensor
    ours: Tensor
    peers: Tensor


def foreground_places(
    logits: Tensor, peer_logits: Tensor, target: Tensor, has_regions: bool, ignore_label: int | None
) -> Places:
    """Voxels that may be in the mask of some class; background agreed by all is left out.

    Args:
        logits: ours, ``(B, K, *spatial)``.
        peer_logits: the peer's, same shape.
        target: nnU-Net's target. Softmax: label numbers ``(B, 1, *spatial)``. Regions: one channel per
            region ``(B, K, *spatial)``, and with an ignore label one more, last, that marks it.
        has_regions: regions (sigmoid) rather than labels (softmax).
        ignore_label: the number that marks voxels nobody has contoured, or None.
    """
    channels = logits.shape[1]
    if has_regions:
        chosen = (target[:, :channels] > 0).any(dim=1)
        for output in (logits, peer_logits):
            chosen |= output.amax(dim=1) > 0
        ignored = target[:, channels] > 0 if ignore_label is not None else None
    else:
        chosen = target[:, 0] > 0
        for output in (logits, peer_logits):
            chosen |= output[:, 1:].amax(dim=1) > output[:, 0]
        ignored = target[:, 0] == ignore_label if ignore_label is not None else None
    if ignored is not None:
        chosen &= ~ignored
    return places_in(chosen)


def said(logits: Tensor, peer_logits: Tensor, target: Tensor, places: Places, has_regions: bool) -> Says:
    """What reference and networks say at some voxels.

    Args:
        logits: ours at these voxels, ``(N, K)``.
        peer_logits: the peer's at these voxels, ``(N, K)``.
        target: nnU-Net's target, whole; see `foreground_places`.
        places: the voxels in it.
        has_regions: regions (sigmoid) rather than labels (softmax).
    """
    channels, reference = logits.shape[1], rows(target, places)
    if has_regions:
        return Says(reference[:, :channels] > 0, logits > 0, peer_logits > 0)
    labels = (reference[:, 0], logits.argmax(dim=1), peer_logits.argmax(dim=1))
    return Says(*(_one_hot(label, channels) for label in labels))


def _one_hot(label: Tensor, channels: int) -> Tensor:
    """Label numbers ``(N,)`` as foreground classes ``(N, channels - 1)``, bool."""
    return label[:, None] == torch.arange(1, channels, device=label.device)


def class_masks(says: Says, mask: MaskKind) -> Tensor:
    """Where each class is compared: ``(N, C)``, bool.

    ``gt``: the reference has the class. ``union``: the reference or either network has it.
    ``agree``: inside the union, where the peer is right about it, be it yes or no.

    Raises:
        ValueError: another kind of mask.
    """
    if mask == "gt":
        return says.reference
    union = says.reference | says.ours | says.peers
    if mask == "union":
        return union
    if mask == "agree":
        return union & (says.peers == says.reference)
    raise ValueError(f"mask is {mask!r}, but must be one of {', '.join(MASK_KINDS)}")


def contrast_masks(says: Says) -> Tensor:
    """Where the peer is wrong about a class, be it yes or no: the union without ``agree``; ``(N, C)``."""
    return says.peers != says.reference


def missing_masks(says: Says, log_peers: Tensor, has_regions: bool) -> Tensor:
    """Where a class is learnt from the peer alone, because this site never contours it: ``(N, C)``, bool.

    The peer is sure there: it has the class with a probability above 0.8, or we have it, the peer has not,
    and gives it less than 0.2. With the first half alone nothing would ever say "not this class", and it
    would soon be everywhere.

    Labels exclude each other, so the reference must be empty there, too. Regions overlap: that one of them is
    contoured says nothing about another, so a missing region is learnt inside a contoured one as well.

    Args:
        says: the reference and both networks.
        log_peers: ``(N, C)``, the peer's log-probability of each class.
        has_regions: regions (sigmoid) rather than labels (softmax).
    """
    is_there = says.peers & (log_peers > math.log(SURE))
    is_not_there = says.ours & ~says.peers & (log_peers < math.log(1 - SURE))
    sure = is_there | is_not_there
    return sure if has_regions else sure & ~says.reference.any(dim=1, keepdim=True)
