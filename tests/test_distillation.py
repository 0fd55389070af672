"""The class-wise masked distillation, by hand and against a plain reference in float64."""

import math

import pytest
import torch
from dense_reference import dense_loss, finite_differences, random_case
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_gml.distillation import ClassWiseDistillation

ALL = ClassWiseDistillation(smoothing=0, minimum_voxels=1)


def everyone(classes: int) -> dict[str, torch.Tensor]:
    return {"trust": torch.ones(classes), "labelled": torch.ones(classes, dtype=torch.bool)}


def one_voxel(*probabilities: float) -> torch.Tensor:
    """Logits of a single voxel with these softmax probabilities, (1, K, 1, 1, 1)."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1, 1)


LABEL_1 = torch.ones(1, 1, 1, 1, 1)


def test_two_known_softmax_outputs():
    """By hand: class 1 is labelled, q = 3/4, p = 1/2, so k = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.1308 nats."""
    pull = ALL(one_voxel(0.5, 0.5), one_voxel(0.25, 0.75), LABEL_1, **everyone(1))

    assert float(pull.loss) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert pull.voxels.tolist() == [1]


def test_two_known_regions():
    """By hand: logits ln 3 and 0 are q = 3/4 and p = 1/2, so k = 0.1308 nats as for softmax."""
    ours, peer = torch.zeros(1, 1, 1, 1, 1), torch.full((1, 1, 1, 1, 1), math.log(3))
    loss = ClassWiseDistillation(has_regions=True, smoothing=0, minimum_voxels=1)

    assert float(loss(ours, peer, LABEL_1, **everyone(1)).loss) == pytest.approx(0.130812, abs=1e-6)


def test_temperature_softens_both_and_is_made_up_for():
    """By hand: T = 2 turns odds of 9 into 3, so q = 3/4 again; times T² = 4 it is 0.5232 nats."""
    loss = ClassWiseDistillation(temperature=2.0, smoothing=0, minimum_voxels=1)

    pull = loss(one_voxel(0.5, 0.5), one_voxel(0.1, 0.9), LABEL_1, **everyone(1))

    assert float(pull.loss) == pytest.approx(4 * 0.130812, abs=1e-5)


def test_smoothing_divides_by_more_than_the_mask():
    """By hand: one voxel with k = 0.1308 nats and s = 3 gives 0.1308 / 4."""
    loss = ClassWiseDistillation(smoothing=3, minimum_voxels=1)

    pull = loss(one_voxel(0.5, 0.5), one_voxel(0.25, 0.75), LABEL_1, **everyone(1))

    assert float(pull.loss) == pytest.approx(0.130812 / 4, abs=1e-6)


def test_divides_by_the_active_classes_not_by_their_trust():
    """By hand: classes 1 and 2 have one voxel each and k = 0.1308 resp. k'; trust (1, 0) halves k."""
    ours = torch.cat([one_voxel(0.5, 0.5, 1e-9), one_voxel(0.5, 1e-9, 0.5)], dim=-1)
    peer = torch.cat([one_voxel(0.25, 0.75, 1e-9), one_voxel(0.25, 1e-9, 0.75)], dim=-1)
    target = torch.tensor([1.0, 2.0]).view(1, 1, 1, 1, 2)

    pull = ALL(ours, peer, target, torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool))

    assert float(pull.loss) == pytest.approx(0.130812 / 2, abs=1e-5)


@pytest.mark.parametrize("mask", ["gt", "union", "agree"])
@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_plain_reference(mask, has_regions, ignore, temperature):
    """Gathered, in log space and float32, with contrast and a missing class, it is METHOD's formula."""
    loss = ClassWiseDistillation(
        has_regions=has_regions,
        ignore_label=5 if ignore else None,
        mask=mask,
        temperature=temperature,
        smoothing=5.0,
        minimum_voxels=2,
        contrast_weight=0.7,
    )
    case, classes = random_case(7, has_regions, ignore, channels=5), 5 if has_regions else 4
    trust, number = torch.linspace(0.2, 1, classes), torch.arange(classes)
    labelled, missing = number < 2, number == 3

    pull = loss(*case, trust, labelled, missing)

    value, voxels = dense_loss(loss, *case, trust, labelled, missing)
    assert pull.voxels.tolist() == voxels and pull.voxels[3] >= 2 and pull.voxels[2] == 0
    assert float(pull.loss) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("ignore", [False, True])
def test_a_missing_region_over_contoured_ones_equals_plain_reference(ignore):
    """Regions 3 and 4 are missing; eight voxels or more of their masks lie in region 1 or 2."""
    loss = ClassWiseDistillation(True, ignore_label=5 if ignore else None, smoothing=5.0)
    logits, peer, target = random_case(13, True, ignore)
    labelled, trust = torch.tensor([True, True, False, False]), torch.tensor([1.0, 0.9, 0.5, 0.4])
    outside = target[:, :2].any(dim=1, keepdim=True).logical_not()
    rest = trust, labelled, ~labelled

    pull = loss(logits, peer, target, *rest)
    elsewhere = loss(*(torch.where(outside, output, -9.0) for output in (logits, peer)), target, *rest)

    value, voxels = dense_loss(loss, logits, peer, target, *rest)
    assert pull.voxels.tolist() == voxels and float(pull.loss) == pytest.approx(value, rel=1e-5)
    assert (elsewhere.voxels[2:] > 0).all() and (pull.voxels - elsewhere.voxels)[2:].min() >= 8


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("contrast_weight", [0.0, 0.5])
def test_one_class_equals_plain_reference(has_regions, contrast_weight):
    """Softmax of two channels, and one region: the smallest networks there are."""
    loss = ClassWiseDistillation(
        has_regions, mask="union", smoothing=5.0, contrast_weight=contrast_weight, temperature=1.7
    )
    case = random_case(3, has_regions, False, channels=1 if has_regions else 2)

    pull = loss(*case, **everyone(1))

    assert float(pull.loss) == pytest.approx(dense_loss(loss, *case, **everyone(1))[0], rel=1e-5)


@pytest.mark.parametrize("mask", ["gt", "union", "agree"])
@pytest.mark.parametrize("has_regions", [False, True])
def test_gradient_is_the_references_finite_difference(mask, has_regions):
    """Away from the masks' edges; both temperatures, contrast and a missing class included."""
    temperature = 2.0 if mask == "gt" else 1.0
    loss = ClassWiseDistillation(
        has_regions,
        mask=mask,
        temperature=temperature,
        smoothing=5.0,
        minimum_voxels=1,
        contrast_weight=0.7,
    )
    logits, peer, target = random_case(11, has_regions, False, spatial=(2, 2, 3))
    classes = 4 if has_regions else 3
    rest = (torch.linspace(0.2, 1, classes), torch.arange(classes) < 2, torch.arange(classes) == 2)
    logits.requires_grad_()

    loss(logits, peer, target, *rest).loss.backward()

    slopes = finite_differences(lambda z: dense_loss(loss, z, peer, target, *rest)[0], logits.detach())
    assert torch.allclose(logits.grad.double(), slopes, rtol=1e-4, atol=1e-7)


def test_gradient_in_float64_is_autograds_own_finite_difference():
    """The pieces' own backward, checked by torch; for one more scaling of the result."""
    logits, peer, target = (t.double() for t in random_case(5, False, False, spatial=(2, 2, 2)))
    loss = ClassWiseDistillation(mask="union", minimum_voxels=1, contrast_weight=0.5)

    assert torch.autograd.gradcheck(
        lambda z: 3 * loss(z, peer, target, **everyone(3)).loss, logits.requires_grad_()
    )


def test_no_gradient_reaches_the_teacher():
    """The peer's output is a constant."""
    logits, peer, target = random_case(1, has_regions=False, ignore=False)
    logits.requires_grad_()
    peer.requires_grad_()

    ALL(logits, peer, target, **everyone(3)).loss.backward()

    assert logits.grad is not None and logits.grad.abs().sum() > 0
    assert peer.grad is None


def test_gradient_is_finite_and_alive_where_the_student_is_most_wrong():
    """p = 1e-87 for the labelled class: clamping would give no gradient, probabilities would give nan."""
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1, 1).requires_grad_()

    ALL(logits, one_voxel(0.1, 0.9), LABEL_1, **everyone(1)).loss.backward()

    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0, 1]) == pytest.approx(-0.9, abs=1e-3)


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("contrast_weight", [0.0, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 64.0])
def test_nothing_to_compare_is_zero(has_regions, contrast_weight, smoothing):
    """All background, agreed by everybody: a plain 0 that can be added to a loss, and no voxels."""
    classes = 3 if has_regions else 2
    logits = torch.full((1, 3, 2, 2, 2), -5.0)
    logits[:, 0] = -5.0 if has_regions else 5.0
    target = torch.zeros(1, 3 if has_regions else 1, 2, 2, 2)
    loss = ClassWiseDistillation(has_regions, contrast_weight=contrast_weight, smoothing=smoothing)

    pull = loss(logits.requires_grad_(), logits, target, **everyone(classes))

    assert pull.loss.shape == () and float(pull.loss) == 0.0 and pull.loss.dtype == torch.float32
    assert pull.voxels.tolist() == [0] * classes and pull.voxels.dtype == torch.int64


def test_a_class_that_only_one_site_contours_is_not_compared():
    """Neither labelled at both sites nor missing: no pull, no voxels."""
    nobody = torch.zeros(3, dtype=torch.bool)

    pull = ClassWiseDistillation(contrast_weight=0.5)(*random_case(1, False, False), torch.ones(3), nobody)

    assert float(pull.loss) == 0.0 and pull.voxels.tolist() == [0, 0, 0]


def test_small_masks_are_left_out():
    """A class with fewer than n_min = 8 voxels says nothing in this step; its one voxel is counted."""
    target = torch.zeros(1, 1, 2, 2, 2)
    target[0, 0, 0, 0, 0] = 1
    logits, peer = torch.zeros(2, 1, 2, 2, 2, 2)
    logits[:, 0], peer[:, 0] = 1.0, 2.0

    few = ClassWiseDistillation(mask="gt")(logits, peer, target, **everyone(1))
    enough = ClassWiseDistillation(mask="gt", minimum_voxels=1)(logits, peer, target, **everyone(1))

    assert float(few.loss) == 0.0 < float(enough.loss)
    assert few.voxels.tolist() == [1]


@pytest.mark.parametrize("has_regions", [False, True])
def test_ignored_voxels_are_in_no_mask(has_regions):
    """Changing the logits under the ignore label changes nothing."""
    loss = ClassWiseDistillation(
        has_regions, ignore_label=4, smoothing=0, minimum_voxels=1, mask="union", contrast_weight=0.5
    )
    logits, peer, target = random_case(3, has_regions, ignore=True)
    ignored = target[:, -1:] > 0 if has_regions else target == 4
    classes = everyone(4 if has_regions else 3)
    before = loss(logits, peer, target, **classes)

    after = loss(torch.where(ignored, -logits, logits), torch.where(ignored, -peer, peer), target, **classes)

    assert ignored.any() and torch.equal(after.loss, before.loss)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_mixed_precision_computes_in_float32(half):
    """Inside autocast, with half-precision logits, value and gradient are those of the same in float32."""
    logits, peer, target = random_case(5, has_regions=False, ignore=False)
    low, high = logits.to(half).requires_grad_(), logits.to(half).float().requires_grad_()
    loss = ClassWiseDistillation(contrast_weight=0.5)

    with torch.autocast("cpu", dtype=half):
        value = loss(low, peer.to(half), target, **everyone(3)).loss
    value.backward()
    expected = loss(high, peer.to(half).float(), target, **everyone(3)).loss
    expected.backward()

    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert low.grad.dtype == half and torch.equal(low.grad, high.grad.to(half))


def test_a_loss_scale_reaches_half_precision_before_rounding():
    """A gradient of 1e-9 is 0 in float16, and 65536 times that is not: the scale counts in float32."""
    logits, peer, target = random_case(5, has_regions=False, ignore=False)
    low = logits.half().requires_grad_()

    (65536 * 1e-6 * ALL(low, peer.half(), target, **everyone(3)).loss).backward()

    high = logits.half().float().requires_grad_()
    ALL(high, peer.half(), target, **everyone(3)).loss.backward()
    assert (1e-6 * high.grad).half().count_nonzero() < low.grad.count_nonzero()
    assert torch.allclose(low.grad.float(), 65536 * 1e-6 * high.grad, rtol=1e-2, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), has_regions=st.booleans())
def test_never_negative_and_zero_for_equals(seed, has_regions):
    """A divergence: at least 0, and 0 for a peer with the same output."""
    logits, peer, target = random_case(seed, has_regions, ignore=False)
    loss = ClassWiseDistillation(has_regions=has_regions, mask="union")
    classes = everyone(4 if has_regions else 3)

    assert float(loss(logits, peer, target, **classes).loss) >= -1e-6
    assert float(loss(logits, logits.clone(), target, **classes).loss) == pytest.approx(0, abs=1e-6)


def test_a_peer_that_is_nan_where_nobody_looks_changes_nothing():
    """Outside all masks the peer's value must not reach the gradient as 0 times nan."""
    logits, peer, target = random_case(2, has_regions=True, ignore=False, channels=2)
    target[:, 1], logits[:, 1] = 0, -logits[:, 1].abs()
    peer[:, 1] = torch.nan
    logits.requires_grad_()

    pull = ClassWiseDistillation(has_regions=True, smoothing=0)(logits, peer, target, **everyone(2))
    pull.loss.backward()

    assert float(pull.loss.detach()) > 0
    assert torch.isfinite(logits.grad).all()


def test_a_peer_that_is_nan_in_a_mask_is_told():
    """The loss is nan then, so that the step can leave the peer out; also for a class that is too small."""
    logits, peer, target = random_case(2, has_regions=True, ignore=False, channels=2)
    target[:], target[0, 0, 0], target[0, 1, 0, 0, 0] = 0, 1, 1
    peer[0, 1, 0, 0, 0] = torch.nan
    loss = ClassWiseDistillation(has_regions=True, mask="gt", smoothing=0)

    pull = loss(logits, peer, target, **everyone(2))

    assert pull.voxels.tolist() == [12, 1] and torch.isnan(pull.loss)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peer_logits": torch.zeros(2, 2, 3, 4, 3)}, r"\(2, 2, 3, 4, 3\), but logits has \(2, 4, 3, 4, 3\)"),
        ({"target": torch.zeros(2, 1, 1, 4, 3)}, r"target has shape \(2, 1, 1, 4, 3\), but logits"),
        ({"trust": torch.ones(4)}, r"trust has shape \(4,\), but expected \(3,\)"),
        ({"labelled": torch.ones(1)}, r"labelled has shape \(1,\), but expected \(3,\)"),
        ({"missing": torch.ones(1)}, r"missing has shape \(1,\), but expected \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changed, message):
    """Two networks of different plans, say: the message says both shapes."""
    logits, peer, target = random_case(0, False, False)
    arguments = {"logits": logits, "peer_logits": peer, "target": target, **everyone(3), **changed}

    with pytest.raises(ValueError, match=message):
        ALL(**arguments)


def test_unknown_mask_is_named():
    """The message lists what there is."""
    with pytest.raises(ValueError, match="'all', but must be one of gt, union, agree"):
        ClassWiseDistillation(mask="all")(*random_case(0, False, False), **everyone(3))
