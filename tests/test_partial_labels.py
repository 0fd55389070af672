"""Supervision with classes that nobody contours here: nnU-Net's own losses on merged channels."""

import math

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from nnunet_gml.partial_labels import MarginalBackground

CLASSES = 4
LABELLED = torch.tensor([False, True, False, True])
IGNORE = CLASSES + 1
SMOOTH = 1e-5
SHAPE = (3, 4, 2)


def label_loss(ignore: int | None = None) -> nn.Module:
    """As nnU-Net's trainer builds it for labels."""
    dice = {"batch_dice": False, "smooth": SMOOTH, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)


def region_loss(ignore: int | None = None) -> nn.Module:
    """As nnU-Net's trainer builds it for regions."""
    dice = {"batch_dice": False, "do_bg": True, "smooth": SMOOTH, "ddp": False}
    kind = MemoryEfficientSoftDiceLoss
    return DC_and_BCE_loss({}, dice, use_ignore_label=ignore is not None, dice_class=kind)


def label_case(ignore: int | None, shape=SHAPE, seed: int = 0):
    """Logits and label numbers at random; every contoured class, and what is not contoured as background."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, CLASSES + 1, *shape, generator=generator)
    numbers = [0, 2, 4] + ([ignore] if ignore else [])
    drawn = torch.randint(0, len(numbers), (2, 1, *shape), generator=generator)
    return logits, torch.tensor(numbers)[drawn].to(torch.int16)


def region_case(ignore: int | None, shape=SHAPE, seed: int = 0):
    """Logits and one channel per region, which overlap; with an ignore label its channel comes last."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, CLASSES, *shape, generator=generator)
    channels = CLASSES + (ignore is not None)
    return logits, torch.rand(2, channels, *shape, generator=generator) < 0.3


def soft_dice(truths: list[list[float]], probabilities: list[list[float]]) -> float:
    """Minus the mean of all (2 sum p y + s) / (sum p + sum y + s), one pair of lists per case and class."""
    dice = [
        (2 * sum(t * p for t, p in zip(truth, probability, strict=True)) + SMOOTH)
        / (sum(truth) + sum(probability) + SMOOTH)
        for truth, probability in zip(truths, probabilities, strict=True)
    ]
    return -sum(dice) / len(dice)


def label_reference(logits: torch.Tensor, target: torch.Tensor, ignore: int | None) -> float:
    """The definition voxel by voxel, in float64: p of background is what the contoured classes leave over."""
    kept = [number + 1 for number in range(CLASSES) if LABELLED[number]]
    entropies, truths, probabilities = [], [], []
    for case in range(len(logits)):
        columns = logits[case].double().flatten(1).T.tolist()
        labels = target[case].flatten().tolist()
        valid = [place for place, label in enumerate(labels) if label != ignore]
        softmax = []
        for place in valid:
            powers = [math.exp(z) for z in columns[place]]
            softmax.append([power / sum(powers) for power in powers])
        seen = [labels[place] for place in valid]
        for p, label in zip(softmax, seen, strict=True):
            entropies.append(-math.log(p[label] if label in kept else 1 - sum(p[c] for c in kept)))
        truths += [[float(label == c) for label in seen] for c in kept]
        probabilities += [[p[c] for p in softmax] for c in kept]
    return sum(entropies) / len(entropies) + soft_dice(truths, probabilities)


def region_reference(logits: torch.Tensor, target: torch.Tensor, ignore: int | None) -> float:
    """The same for regions; nnU-Net divides the cross-entropy by voxels with an ignore label, else also by
    the number of regions."""
    kept = [number for number in range(CLASSES) if LABELLED[number]]
    entropy, voxels, truths, probabilities = 0.0, 0, [], []
    for case in range(len(logits)):
        rows = logits[case].double().flatten(1).tolist()
        flags = target[case].flatten(1).tolist()
        valid = [place for place in range(len(rows[0])) if ignore is None or not flags[-1][place]]
        voxels += len(valid)
        for c in kept:
            p = [1 / (1 + math.exp(-rows[c][place])) for place in valid]
            y = [float(flags[c][place]) for place in valid]
            entropy -= sum(math.log(a if b else 1 - a) for a, b in zip(p, y, strict=True))
            truths.append(y)
            probabilities.append(p)
    return entropy / (voxels if ignore else voxels * len(kept)) + soft_dice(truths, probabilities)


CASES = {
    False: (label_case, label_loss, label_reference),
    True: (region_case, region_loss, region_reference),
}


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("has_regions", [False, True])
def test_the_loss_is_nnunets_on_what_is_contoured(has_regions, ignore):
    """nnU-Net's real losses against the definition in plain loops."""
    case, loss, reference = CASES[has_regions]
    logits, target = case(ignore)

    value = MarginalBackground(loss(ignore), LABELLED, has_regions, ignore)(logits, target)

    assert float(value) == pytest.approx(reference(logits, target, ignore), rel=1e-5)


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("has_regions", [False, True])
def test_the_gradient_is_that_of_the_definition(has_regions, ignore):
    """Autograd against central differences of the reference, at every third logit."""
    case, loss, reference = CASES[has_regions]
    logits, target = case(ignore, shape=(2, 2), seed=1)
    logits.requires_grad_()
    MarginalBackground(loss(ignore), LABELLED, has_regions, ignore)(logits, target).backward()

    step, point = 1e-5, logits.detach().double()
    for place in range(0, point.numel(), 3):
        moved = [point.clone(), point.clone()]
        moved[0].view(-1)[place] += step
        moved[1].view(-1)[place] -= step
        high, low = (reference(values, target, ignore) for values in moved)
        assert float(logits.grad.flatten()[place]) == pytest.approx((high - low) / (2 * step), abs=1e-5)


def test_marginal_of_three_equal_logits():
    """By hand: background and one class that is not contoured, each 1/3, so -ln(2/3) = 0.4055 nats."""
    loss = MarginalBackground(
        lambda output, target: nn.functional.cross_entropy(output, target[:, 0].long()),
        torch.tensor([True, False]),
        has_regions=False,
        ignore_label=None,
    )

    for label in (0, 2):
        value = loss(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1, 1), label))
        assert float(value) == pytest.approx(0.4055, abs=5e-5)
    assert float(loss(torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1))) == pytest.approx(math.log(3))


def test_a_class_that_nobody_contours_is_not_pushed_towards_background():
    """Stock nnU-Net pushes it down wherever the reference is empty; here it moves only with the background,
    by its share of their common probability."""
    logits, target = label_case(None)
    stock, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    label_loss()(stock, target).backward()

    MarginalBackground(label_loss(), LABELLED, False, None)(ours, target).backward()

    empty = target[:, 0] == 0
    share = logits[:, [0, 1, 3]].softmax(dim=1)
    together = ours.grad[:, [0, 1, 3]].sum(dim=1, keepdim=True)
    for number in (1, 3):
        assert (stock.grad[:, number][empty] > 0).all()
        assert (ours.grad[:, number][empty] <= 0).all()
    assert torch.allclose(ours.grad[:, [0, 1, 3]], share * together, atol=1e-7)


def test_regions_that_nobody_contours_have_no_gradient():
    """Neither up nor down, whatever their target says."""
    logits, target = region_case(IGNORE)
    logits.requires_grad_()

    MarginalBackground(region_loss(IGNORE), LABELLED, True, IGNORE)(logits, target).backward()

    moved = logits.grad.abs().sum(dim=(0, 2, 3, 4)) > 0
    assert torch.equal(moved, LABELLED)


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("has_regions", [False, True])
def test_with_every_class_contoured_it_is_nnunets_loss_bit_for_bit(has_regions, ignore):
    """Value and gradient: nothing changes for a site that contours everything."""
    case, loss, _ = CASES[has_regions]
    logits, target = case(ignore)
    stock, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = loss(ignore)(stock, target)
    expected.backward()

    value = MarginalBackground(loss(ignore), torch.ones(CLASSES).bool(), has_regions, ignore)(ours, target)
    value.backward()

    assert torch.equal(value, expected)
    assert torch.equal(ours.grad, stock.grad)


@pytest.mark.parametrize("has_regions", [False, True])
def test_with_every_class_contoured_nothing_is_copied(has_regions):
    """The loss gets the very tensors: no time, no memory."""
    output, target = CASES[has_regions][0](None)
    got = []
    loss = MarginalBackground(lambda *pair: got.extend(pair), torch.ones(CLASSES).bool(), has_regions, None)

    loss(output, target)

    assert got[0] is output and got[1] is target


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("has_regions", [False, True])
def test_deep_supervision_adds_the_scales_with_nnunets_weights(has_regions, ignore):
    """nnU-Net's real wrapper, 2/3 and 1/3, the last scale 0: the sum of the single losses."""
    case, loss, _ = CASES[has_regions]
    scales = [case(ignore, shape) for shape in ((4, 4, 4), (2, 2, 2), (1, 1, 1))]
    weights = (2 / 3, 1 / 3, 0.0)
    single = MarginalBackground(loss(ignore), LABELLED, has_regions, ignore)

    value = MarginalBackground(DeepSupervisionWrapper(loss(ignore), weights), LABELLED, has_regions, ignore)(
        [logits for logits, _ in scales], [target for _, target in scales]
    )

    expected = sum(weight * single(*scale) for weight, scale in zip(weights, scales, strict=True))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_ignored_voxels_give_no_gradient():
    """The ignore label keeps its number although the others move up."""
    logits, target = label_case(IGNORE)
    logits.requires_grad_()

    MarginalBackground(label_loss(IGNORE), LABELLED, False, IGNORE)(logits, target).backward()

    ignored = (target == IGNORE).expand_as(logits)
    assert ignored.any()
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).any()


def test_a_batch_of_ignored_voxels_costs_what_nnunets_loss_says():
    """Only the smoothing is left of Dice, s / s = 1 for each class, and no cross-entropy: -1."""
    logits, target = label_case(IGNORE)

    value = MarginalBackground(label_loss(IGNORE), LABELLED, False, IGNORE)(
        logits, torch.full_like(target, IGNORE)
    )

    assert float(value) == pytest.approx(-1)


def test_half_precision_is_merged_in_full():
    """Background at 60000 of at most 65504: finite, and the same as in float32."""
    logits, target = label_case(None)
    logits[:, 0] += 1000
    logits[0, 1] = 60000
    half = logits.half().requires_grad_()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MarginalBackground(label_loss(), LABELLED, False, None)(half, target)
    value.backward()

    expected = MarginalBackground(label_loss(), LABELLED, False, None)(half.detach().float(), target)
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert torch.isfinite(half.grad).all()


def test_a_site_that_contours_nothing_is_refused():
    """An empty mean would be NaN at the first step."""
    with pytest.raises(ValueError, match="at least one"):
        MarginalBackground(label_loss(), torch.zeros(2, dtype=torch.bool), False, None)
