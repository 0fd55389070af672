"""How hard the peer pulls relative to supervision, and that it never pulls harder."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from mutual_kit import (
    DISTIL,
    LABELLED,
    METHOD,
    TRUST,
    batches,
    learner,
    peer,
    same,
    scales,
    supervise,
    two_scales,
)

from nnunet_gml.mutual import train_with_peer

DATA, TARGET = batches()[0]


def ratio_by_hand(weight: float) -> float:
    """Sums of the absolute gradients at our logits: of the weighted pull, over supervision's."""
    logits = learner(0).network(DATA).detach().requires_grad_()
    pull = DISTIL(logits, learner(1).network(DATA), TARGET, TRUST, LABELLED).loss
    slopes = [torch.autograd.grad(loss, logits)[0].abs().sum() for loss in (pull, supervise(logits, TARGET))]
    return weight * float(slopes[0] / slopes[1])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("in_two_passes", [False, True])
def test_the_ratio_is_that_of_the_gradients_at_the_logits(scaled, in_two_passes):
    """Whatever the gradient scale; a ratio below 1 dampens nothing."""
    method, them = replace(METHOD, in_two_passes=in_two_passes), peer(scaled=scaled, weight=0.1)

    report = train_with_peer(DATA, TARGET, learner(0, scaled), them, method, measure=True)

    assert 0 < ratio_by_hand(0.1) < 1
    assert float(report.ratio) == pytest.approx(ratio_by_hand(0.1), rel=1e-5)
    assert them.damping == 1.0


def test_only_full_resolution_counts():
    """With deep supervision the other scales are in neither gradient."""
    ours, them = two_scales(learner(0)), peer(weight=0.1)
    two_scales(them.learner)

    report = train_with_peer(DATA, scales(TARGET), ours, them, METHOD, measure=True)

    assert float(report.ratio) == pytest.approx(ratio_by_hand(0.1), rel=1e-5)


@pytest.mark.parametrize("in_two_passes", [False, True])
def test_a_peer_that_pulls_too_hard_is_damped_from_this_step_on(in_two_passes):
    """Weight λ with a ratio above 1 does what weight λ / ratio does, in this step and the next."""
    method = replace(METHOD, in_two_passes=in_two_passes)
    excess = ratio_by_hand(100.0)
    hard, soft = (learner(0), peer(weight=100.0)), (learner(0), peer(weight=100.0 / excess))

    for number, (data, target) in enumerate(batches()):
        report = train_with_peer(data, target, *hard, method, measure=number == 0)
        train_with_peer(data, target, *soft, method)
        assert torch.isnan(report.ratio) == (number > 0)

    assert excess > 1 and hard[1].damping == pytest.approx(1 / excess)
    for one, other in zip(hard, soft, strict=True):
        a, b = (who.learner.network if who in (hard[1], soft[1]) else who.network for who in (one, other))
        assert all(
            torch.allclose(x, y, atol=1e-5) for x, y in zip(a.parameters(), b.parameters(), strict=True)
        )


def test_a_later_measurement_counts_from_the_undamped_weight():
    """Otherwise a damping would hide the reason for itself."""
    ours, them = learner(0), peer(weight=100.0)
    before = copy.deepcopy((ours.network, them.learner.network))

    first = train_with_peer(DATA, TARGET, ours, them, METHOD, measure=True)
    ours, them.learner = learner(0), learner(1)
    again = train_with_peer(DATA, TARGET, ours, them, METHOD, measure=True)

    assert float(again.ratio) == pytest.approx(float(first.ratio))
    assert not same(ours.network, before[0])


def test_measuring_changes_nothing_else():
    """A step with a ratio below 1 is the same step, bit for bit."""
    pairs = [(learner(0), peer(weight=0.1)) for _ in range(2)]

    for (ours, them), measure in zip(pairs, (True, False), strict=True):
        train_with_peer(DATA, TARGET, ours, them, METHOD, measure=measure)

    assert same(pairs[0][0].network, pairs[1][0].network)
    assert same(pairs[0][1].learner.network, pairs[1][1].learner.network)


def test_a_step_without_any_voxel_to_compare_says_nothing_about_the_damping():
    """Ratio 0, and the damping of an earlier measurement stays."""
    them = peer()
    them.labelled, them.damping = ~LABELLED, 0.25

    report = train_with_peer(DATA, TARGET, learner(0), them, METHOD, measure=True)

    assert float(report.ratio) == 0.0 and them.damping == 0.25
