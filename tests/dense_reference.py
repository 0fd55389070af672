"""METHOD's distillation once more: every voxel, plain loops, probabilities, Python's own float64."""

import math
from itertools import product

import torch

from nnunet_gml.distillation import ClassWiseDistillation

SURE = 0.8


def dense_loss(
    loss: ClassWiseDistillation, logits, peer, target, trust, labelled, missing=None
) -> tuple[float, list[int]]:
    """The loss's value, and the voxels in each class's mask."""
    classes = len(trust)
    missing = [False] * classes if missing is None else missing.tolist()
    pulls: dict[bool, list[float]] = {True: [], False: []}
    contrasts, sizes = [], []
    for c in range(classes):
        divergence, contrast = [], []
        for voxel in product(range(len(logits)), *map(range, logits.shape[2:])):
            z, t, y = (tensor[voxel[0], :, *voxel[1:]].tolist() for tensor in (logits, peer, target))
            if not is_ignored(loss, y):
                one_voxel(loss, c, z, t, y, bool(labelled[c]), missing[c], divergence, contrast)
        sizes.append(len(divergence))
        if len(divergence) >= loss.minimum_voxels:
            pulls[missing[c]].append(float(trust[c]) * sum(divergence) / (len(divergence) + loss.smoothing))
        if len(contrast) >= loss.minimum_voxels:
            contrasts.append(sum(contrast) / (len(contrast) + loss.smoothing))
    value = sum(sum(each) / max(1, len(each)) for each in pulls.values())
    value += loss.contrast_weight * sum(contrasts) / max(1, len(contrasts))
    return loss.temperature**2 * value, sizes


def one_voxel(loss, c, z, t, y, is_labelled, is_missing, divergence, contrast) -> None:
    """Add this voxel's part in class c to the lists.

    A missing class cannot be where another label is; a missing region can be inside another region.
    """
    ours, peers = says(loss, c, z), says(loss, c, t)
    label = y[c] > 0 if loss.has_regions else y[0] == c + 1
    p, not_p = probability(loss.has_regions, c, z, loss.temperature)
    q, not_q = probability(loss.has_regions, c, t, loss.temperature)
    union = label or ours or peers
    inside = {"gt": label, "union": union, "agree": union and peers == label}[loss.mask] and is_labelled
    may_be_here = loss.has_regions or y[0] == 0
    certainty = probability(loss.has_regions, c, t, 1.0)[0]
    yes, no = peers and certainty > SURE, ours and not peers and certainty < 1 - SURE
    if inside or (is_missing and may_be_here and (yes or no)):
        divergence.append(q * math.log(q / p) + not_q * math.log(not_q / not_p))
    if is_labelled and union and peers != label:
        contrast.append(-not_q * math.log(p) if label else -q * math.log(not_p))


def is_ignored(loss, y) -> bool:
    """Whether nobody has contoured this voxel."""
    if loss.ignore_label is None:
        return False
    return y[-1] > 0 if loss.has_regions else y[0] == loss.ignore_label


def says(loss, c, logits) -> bool:
    """Whether a network says class c."""
    return logits[c] > 0 if loss.has_regions else logits.index(max(logits)) == c + 1


def probability(has_regions, c, logits, temperature) -> tuple[float, float]:
    """Of class c, and of its opposite."""
    if has_regions:
        return 1 / (1 + math.exp(-logits[c] / temperature)), 1 / (1 + math.exp(logits[c] / temperature))
    powers = [math.exp(value / temperature) for value in logits]
    return powers[c + 1] / sum(powers), (sum(powers) - powers[c + 1]) / sum(powers)


def random_case(seed: int, has_regions: bool, ignore: bool, channels: int = 4, spatial=(3, 4, 3)):
    """Logits of two networks, and a target, two samples each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, channels, *spatial)
    logits, peer = (4 * torch.randn(shape, generator=generator) for _ in range(2))
    if has_regions:
        target = (torch.rand((2, channels + ignore, *spatial), generator=generator) > 0.6).float()
    else:
        target = torch.randint(0, channels + ignore, (2, 1, *spatial), generator=generator)
    return logits, peer, target


def finite_differences(function, tensor: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    """Central differences of a scalar function, one entry after the other."""
    gradient = torch.zeros_like(tensor, dtype=torch.float64)
    for place in product(*map(range, tensor.shape)):
        moved = tensor.double().clone()
        moved[place] += step
        above = function(moved)
        moved[place] -= 2 * step
        gradient[place] = (above - function(moved)) / (2 * step)
    return gradient
