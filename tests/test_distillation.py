"""The class-wise masked distillation, by hand and against a plain reference in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_gml.distillation import ClassWiseDistillation, bernoulli_divergence, one_vs_rest

ALL = ClassWiseDistillation(smoothing=0, minimum_voxels=1)


def everyone(classes: int) -> dict[str, torch.Tensor]:
    return {"trust": torch.ones(classes), "labelled": torch.ones(classes, dtype=torch.bool)}


def one_voxel(*probabilities: float) -> torch.Tensor:
    """Logits of a single voxel with these softmax probabilities, (1, K, 1, 1, 1)."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1, 1)


def reference(loss: ClassWiseDistillation, logits, peer, target, trust, labelled) -> float:
    """METHOD's formula voxel by voxel, with probabilities in float64 and plain loops."""
    channels = logits.shape[1]
    first = 0 if loss.has_regions else 1
    terms, active = 0.0, 0
    flat = [t.double().movedim(1, -1).reshape(-1, t.shape[1]) for t in (logits, peer, target)]
    for number, channel in enumerate(range(first, channels)):
        total, size = 0.0, 0
        for z, t, y in zip(*flat, strict=True):
            if loss.ignore_label is not None and (
                y[-1] > 0 if loss.has_regions else y[0] == loss.ignore_label
            ):
                continue
            if loss.has_regions:
                is_y, is_z, is_t = bool(y[channel] > 0), bool(z[channel] > 0), bool(t[channel] > 0)
                p = torch.sigmoid(z[channel] / loss.temperature)
                q = torch.sigmoid(t[channel] / loss.temperature)
            else:
                is_y, is_z, is_t = (
                    int(y[0]) == channel,
                    int(z.argmax()) == channel,
                    int(t.argmax()) == channel,
                )
                p = (z / loss.temperature).softmax(0)[channel]
                q = (t / loss.temperature).softmax(0)[channel]
            inside = {"gt": is_y, "union": is_y or is_z or is_t}
            inside["agree"] = inside["union"] and is_t == is_y
            if inside[loss.mask]:
                size += 1
                total += float(q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log())
        if size >= loss.minimum_voxels and labelled[number]:
            active += 1
            terms += float(trust[number]) * loss.temperature**2 * total / (size + loss.smoothing)
    return terms / active if active else 0.0


def random_case(seed: int, has_regions: bool, ignore: bool, channels: int = 4):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, channels, 3, 4, 3)
    logits, peer = (4 * torch.randn(shape, generator=generator) for _ in range(2))
    if has_regions:
        target = (torch.rand((2, channels + ignore, 3, 4, 3), generator=generator) > 0.6).float()
    else:
        target = torch.randint(0, channels + ignore, (2, 1, 3, 4, 3), generator=generator)
    return logits, peer, target


def test_two_known_softmax_outputs():
    """By hand: class 1 is labelled, q = 3/4, p = 1/2, so k = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.1308 nats."""
    loss = ALL(one_voxel(0.5, 0.5), one_voxel(0.25, 0.75), torch.ones(1, 1, 1, 1, 1), **everyone(1))

    assert float(loss) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


def test_smoothing_divides_by_more_than_the_mask():
    """By hand: one voxel with k = 0.1308 nats and s = 3 gives 0.1308 / 4."""
    loss = ClassWiseDistillation(smoothing=3, minimum_voxels=1)

    value = loss(one_voxel(0.5, 0.5), one_voxel(0.25, 0.75), torch.ones(1, 1, 1, 1, 1), **everyone(1))

    assert float(value) == pytest.approx(0.130812 / 4, abs=1e-6)


def test_agree_leaves_out_voxels_where_the_peer_is_wrong():
    """The reference says class 1, the peer says background: nothing to learn from it here."""
    loss = ALL(one_voxel(0.4, 0.6), one_voxel(0.9, 0.1), torch.ones(1, 1, 1, 1, 1), **everyone(1))

    assert float(loss) == 0.0


def test_divides_by_the_active_classes_not_by_their_trust():
    """By hand: classes 1 and 2 have one voxel each and k = 0.1308 resp. k'; trust (1, 0) halves k."""
    ours = torch.cat([one_voxel(0.5, 0.5, 1e-9), one_voxel(0.5, 1e-9, 0.5)], dim=-1)
    peer = torch.cat([one_voxel(0.25, 0.75, 1e-9), one_voxel(0.25, 1e-9, 0.75)], dim=-1)
    target = torch.tensor([1.0, 2.0]).view(1, 1, 1, 1, 2)

    value = ALL(ours, peer, target, torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool))

    assert float(value) == pytest.approx(0.130812 / 2, abs=1e-5)


@pytest.mark.parametrize("mask", ["gt", "union", "agree"])
@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("channels", [2, 4])
def test_equals_plain_reference(mask, has_regions, ignore, channels):
    """Gathered, in log space and float32, it is METHOD's formula."""
    loss = ClassWiseDistillation(
        has_regions=has_regions,
        ignore_label=channels if ignore else None,
        mask=mask,
        temperature=1.7,
        smoothing=5.0,
        minimum_voxels=3,
    )
    classes = channels if has_regions else channels - 1
    case = random_case(7, has_regions, ignore, channels)
    trust, labelled = torch.linspace(0.2, 1, classes), torch.arange(classes) != 1

    value = loss(*case, trust, labelled)

    assert float(value) == pytest.approx(reference(loss, *case, trust, labelled), rel=1e-4)


@pytest.mark.parametrize("has_regions", [False, True])
def test_gradient_is_the_finite_difference(has_regions):
    """Autograd in float64 agrees with finite differences, away from the masks' edges."""
    student, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=r) for r in (True, False))

    assert torch.autograd.gradcheck(
        lambda z: bernoulli_divergence(one_vs_rest(z, has_regions), one_vs_rest(teacher, has_regions)),
        student,
    )


def test_no_gradient_reaches_the_teacher():
    """The peer's output is a constant."""
    logits, peer, target = random_case(1, has_regions=False, ignore=False)
    logits.requires_grad_()
    peer.requires_grad_()

    ALL(logits, peer, target, **everyone(3)).backward()

    assert logits.grad is not None and logits.grad.abs().sum() > 0
    assert peer.grad is None


def test_gradient_is_finite_and_alive_where_the_student_is_most_wrong():
    """p = 1e-87 for the labelled class: clamping would give no gradient, probabilities would give nan."""
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1, 1).requires_grad_()

    ALL(logits, one_voxel(0.1, 0.9), torch.ones(1, 1, 1, 1, 1), **everyone(1)).backward()

    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0, 1]) == pytest.approx(-0.9, abs=1e-3)


@pytest.mark.parametrize("has_regions", [False, True])
def test_nothing_to_compare_is_zero(has_regions):
    """All background, agreed by everybody: a plain 0 that can be added to a loss."""
    logits = torch.full((1, 3, 2, 2, 2), -5.0)
    logits[:, 0] = -5.0 if has_regions else 5.0
    target = torch.zeros(1, 3 if has_regions else 1, 2, 2, 2)
    loss = ClassWiseDistillation(has_regions=has_regions)

    value = loss(logits, logits, target, **everyone(3 if has_regions else 2))

    assert value.shape == () and float(value) == 0.0


def test_small_masks_are_left_out():
    """A class with fewer than n_min = 8 voxels says nothing in this step."""
    target = torch.zeros(1, 1, 2, 2, 2)
    target[0, 0, 0, 0, 0] = 1
    logits, peer = torch.zeros(2, 1, 2, 2, 2, 2)
    logits[:, 0], peer[:, 0] = 1.0, 2.0

    assert float(ClassWiseDistillation(mask="gt")(logits, peer, target, **everyone(1))) == 0.0
    assert float(ALL.__class__(mask="gt", minimum_voxels=1)(logits, peer, target, **everyone(1))) > 0.0


def test_ignored_voxels_are_in_no_mask():
    """Changing the logits under the ignore label changes nothing."""
    loss = ClassWiseDistillation(ignore_label=4, smoothing=0, minimum_voxels=1, mask="union")
    logits, peer, target = random_case(3, has_regions=False, ignore=True)
    before = loss(logits, peer, target, **everyone(3))

    logits = torch.where(target == 4, -logits, logits)

    assert torch.equal(loss(logits, peer, target, **everyone(3)), before)


def test_mixed_precision_computes_in_float32():
    """Inside autocast, with half-precision logits, the value is that of the same logits in float32."""
    logits, peer, target = random_case(5, has_regions=False, ignore=False)
    half = logits.bfloat16(), peer.bfloat16()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ALL(*half, target, **everyone(3))

    assert value.dtype == torch.float32
    assert torch.equal(value, ALL(*(t.float() for t in half), target, **everyone(3)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), has_regions=st.booleans())
def test_never_negative_and_zero_for_equals(seed, has_regions):
    """A divergence: at least 0, and 0 for a peer with the same output."""
    logits, peer, target = random_case(seed, has_regions, ignore=False)
    loss = ClassWiseDistillation(has_regions=has_regions, mask="union")
    classes = everyone(4 if has_regions else 3)

    assert float(loss(logits, peer, target, **classes)) >= -1e-6
    assert float(loss(logits, logits.clone(), target, **classes)) == pytest.approx(0, abs=1e-6)


def test_shapes_that_do_not_fit_are_named():
    """Two networks of different plans: the message says both shapes."""
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 1, 1\), but logits has \(1, 3, 1, 1, 1\)"):
        ALL(one_voxel(0.3, 0.3, 0.4), one_voxel(0.5, 0.5), torch.ones(1, 1, 1, 1, 1), **everyone(2))


def test_unknown_mask_is_named():
    """The message lists what there is."""
    with pytest.raises(ValueError, match="'all', but must be one of gt, union, agree"):
        ClassWiseDistillation(mask="all")(*random_case(0, False, False), **everyone(3))
