"""What becomes of a peer's weights after a round, and averages of several sites' weights.

Averages are meaningful only between networks that started from the same weights. The rules are ours;
leaving normalisation layers out is FedBN's idea (arXiv:2102.07623).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from nnunet_gml.tensors import all_finite, named_tensors, unwrap
from nnunet_gml.trust import Scores

MergeKind = Literal["none", "best", "weighted", "select", "lean"]

MARGIN = 0.005
"""Dice by which other weights must be better before they replace ours."""
MOST_SHARE = 0.5
SOFTNESS = 0.05
"""Difference in Dice that moves the peer's share from 1/2 to 1 / (1 + 1/e), were it not capped."""
NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Batch and instance norms of all dimensions share torch's own base class."""


def peer_share(dice_peer: float, dice_ours: float) -> float:
    r"""How much of the average is the peer's.

    .. math:: \beta = \min(0.5, \sigma((D_{peer} - D_{ours}) / 0.05))

    Args:
        dice_peer: mean Dice of the peer's network on the local validation patches, 0 to 1.
        dice_ours: of ours, on the same patches.

    Returns:
        0 to 0.5; 0 where either Dice is NaN.

    Example:
        >>> peer_share(0.8, 0.7)
        0.5
    """
    if math.isnan(dice_peer) or math.isnan(dice_ours):
        return 0.0
    return min(MOST_SHARE, 1 / (1 + math.exp((dice_ours - dice_peer) / SOFTNESS)))


def is_better(dice_peer: float, dice_ours: float) -> bool:
    """The peer's Dice is above ours by more than `MARGIN`; never where either is NaN."""
    return dice_peer - dice_ours > MARGIN


def normalization_names(network: nn.Module) -> frozenset[str]:
    """Names, as in `named_tensors`, of all tensors of batch, instance, group, layer and RMS norms."""
    modules = unwrap(network).named_modules()
    norms = {name for name, module in modules if isinstance(module, NORMALIZATION)}
    return frozenset(name for name in named_tensors(network) if name.rpartition(".")[0] in norms)


def mean_of(tensors: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    r"""The weighted mean :math:`\sum_i s_i \theta_i / \sum_i s_i` of several sites' weights.

    Taken as a running mean, so that the mean of equal weights is those weights bit for bit. The order
    decides the last bit: sites that must get the same result list the weights in the same order.

    Args:
        tensors: one mapping of names to tensors for each site, the same names and shapes in all.
        shares: a weight for each site, such as its number of cases.

    Returns:
        New tensors; floating-point ones in float32, others as the first site has them.

    Raises:
        ValueError: no site; as many shares as sites are not there; a share is negative or not finite, or
            all are 0; names differ.
    """
    _check_shares(len(tensors), shares)
    if any(site.keys() != tensors[0].keys() for site in tensors):
        raise ValueError("the sites' weights have different names: are they of the same plans?")
    mean = {name: tensor.float() for name, tensor in tensors[0].items() if tensor.is_floating_point()}
    total = shares[0]
    for site, share in zip(tensors[1:], shares[1:], strict=True):
        total += share
        part = share / total if total else 0.0
        mean = {name: tensor.lerp(site[name].to(tensor), part) for name, tensor in mean.items()}
    return {name: mean.get(name, tensor).clone() for name, tensor in tensors[0].items()}


def _check_shares(sites: int, shares: Sequence[float]) -> None:
    if not sites or len(shares) != sites:
        raise ValueError(f"{len(shares)} shares for {sites} sites, but expected one for each of at least one")
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares):
        raise ValueError(f"shares are {list(shares)}, but all must be at least 0 and one above")


def mix(network: nn.Module, other: Mapping[str, Tensor], share: float, keep: Collection[str] = ()) -> None:
    r"""Move a network towards other weights in place: :math:`\theta \gets (1 - s) \theta + s \theta'`.

    Args:
        network: ours; compiled and distributed networks are moved inside.
        other: tensors by the names of `named_tensors`, on any device.
        share: s, 0 to 1. 0 changes nothing, 1 copies.
        keep: names of tensors that stay ours. Integers, such as a batch norm's counter, stay anyway.

    Raises:
        ValueError: the share is outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, but must be within 0 and 1")
    if share == 0:
        return
    with torch.no_grad():
        for name, tensor in named_tensors(network).items():
            if tensor.is_floating_point() and name not in keep:
                if share == 1:  # also where ours is not finite
                    tensor.copy_(other[name])
                else:
                    tensor.lerp_(other[name].to(tensor), share)


def scale_momentum(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply the momentum of SGD or Adam in place: only our part of the merged weights has this history."""
    for state in optimizer.state.values():
        for name in ("momentum_buffer", "exp_avg"):
            if state.get(name) is not None:
                state[name].mul_(factor)


class Merged(NamedTuple):
    """What became of a peer's weights."""

    share: float
    """Of the average, the peer's; 0 where everything stays ours."""
    scores: Scores
    """Our network's afterwards, on the local validation patches."""


def merge(
    kind: MergeKind,
    network: nn.Module,
    peer_network: nn.Module,
    optimizer: torch.optim.Optimizer,
    theirs: Scores,
    ours: Scores,
    score: Callable[[], Scores],
    keep: Collection[str] = (),
) -> Merged:
    """Take a share of a peer's weights into ours; momentum shrinks with what is left of ours.

    Args:
        kind: ``none``; ``best``: all of the peer's, if it `is_better`; ``weighted``: its `peer_share`, unless
            our Dice falls; ``select``: half or all of it, whichever `is_better`, and best;
            ``lean``: half of it unless ours `is_better`, all of it where that `is_better` than either.
        network: ours.
        peer_network: the peer's, with the same names of tensors.
        optimizer: ours.
        theirs: the peer's scores on the local validation patches.
        ours: those of our network, before.
        score: measures our network as it is then; it holds weights on trial.
        keep: names of tensors that stay ours; "all of the peer's" is then all others, and measured so.

    Returns:
        The share and the scores; nothing changes for a peer whose weights are not finite.

    Raises:
        ValueError: another kind.
    """
    if kind not in get_args(MergeKind):
        raise ValueError(f"merge is {kind!r}, but must be one of {', '.join(get_args(MergeKind))}")
    peer = named_tensors(peer_network)
    if kind == "none" or not all_finite(peer):
        return Merged(0.0, ours)
    known = {0.0: ours} if keep else {0.0: ours, 1.0: theirs}

    def dice_at(share: float) -> float:
        if share not in known:
            before = {name: tensor.clone() for name, tensor in named_tensors(network).items()}
            mix(network, peer, share, keep)
            known[share] = score()
            mix(network, before, 1.0)
        return known[share].mean

    share = _chosen_share(kind, dice_at)
    mix(network, peer, share, keep)
    scale_momentum(optimizer, 1 - share)
    return Merged(share, known[share])


def _chosen_share(kind: MergeKind, dice_at: Callable[[float], float]) -> float:
    """The share, from the Dice that our network has with a share of the peer's weights."""
    ours, peer = dice_at(0.0), dice_at(1.0)
    if kind == "weighted":
        share = peer_share(peer, ours)
        return share if dice_at(share) >= ours else 0.0
    if kind == "lean":
        half = dice_at(MOST_SHARE)
        if is_better(peer, half) and is_better(peer, ours):
            return 1.0
        return MOST_SHARE if half >= ours - MARGIN else 0.0
    candidates = (1.0, MOST_SHARE) if kind == "select" else (1.0,)
    better = [share for share in candidates if is_better(dice_at(share), ours)]
    return max(better, key=dice_at, default=0.0)
