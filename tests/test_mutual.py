"""The step of two networks: what moves, what stays, what is left out."""

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
    TRUST_IN_US,
    batches,
    learner,
    peer,
    same,
    scales,
    supervise,
    train_alone,
    two_scales,
)
from torch import nn

from nnunet_gml.learners import Learner
from nnunet_gml.mutual import PeerTooLargeError, train_with_peer

TWO_PASSES = replace(METHOD, in_two_passes=True)


@pytest.mark.parametrize("method", [METHOD, TWO_PASSES])
@pytest.mark.parametrize("learns", [True, False])
def test_weight_zero_is_training_alone_bit_for_bit(method, learns):
    """With λ = 0 neither network feels the other."""
    ours, alone, them = learner(0), learner(0), peer(weight=0.0, learns=learns)
    train_alone(alone)

    for data, target in batches():
        report = train_with_peer(data, target, ours, them, method, measure=True)

    assert same(ours.network, alone.network)
    assert float(report.ratio) == 0.0 and report.voxels.tolist() == [0, 0]


def test_mutual_moves_both_and_frozen_only_ours():
    """Mutual: two networks learn. Frozen: the peer's stays as it came."""
    for learns in (True, False):
        ours, them = learner(0), peer(learns=learns)
        as_it_came = copy.deepcopy(them.learner.network)
        before = copy.deepcopy(ours.network)

        train_with_peer(*batches()[0], ours, them, METHOD)

        assert not same(ours.network, before)
        assert same(them.learner.network, as_it_came) is not learns


def plain(who: Learner) -> Learner:
    """The same with an optimiser that has no momentum."""
    who.optimizer = torch.optim.SGD(who.network.parameters(), lr=0.1)
    return who


def stepped(network: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    """One step of plain SGD by hand: θ - 0.1 · gradient."""
    parameters = list(network.parameters())
    return [p - 0.1 * g for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]


def close(network: nn.Module, values: list[torch.Tensor]) -> bool:
    return all(torch.allclose(p, v, atol=1e-7) for p, v in zip(network.parameters(), values, strict=True))


@pytest.mark.parametrize("method", [METHOD, TWO_PASSES])
def test_each_step_is_the_gradient_of_supervision_plus_weighted_distillation(method):
    """One step of plain SGD by hand, for both: θ - lr · ∂(L_sup + λ L_dist)/∂θ, each with its own trust."""
    data, target = batches()[0]
    ours, them = plain(learner(0)), peer()
    plain(them.learner)
    networks = [copy.deepcopy(who.network) for who in (ours, them.learner)]
    outputs = [network(data) for network in networks]
    expected = []
    for number, trust in ((0, TRUST), (1, TRUST_IN_US)):
        own, other = outputs[number], outputs[1 - number].detach()
        pull = DISTIL(own, other, target, trust, LABELLED)
        expected.append(stepped(networks[number], supervise(own, target) + 0.5 * pull.loss))

    report = train_with_peer(data, target, ours, them, method)

    assert close(ours.network, expected[0]) and close(them.learner.network, expected[1])
    first = DISTIL(outputs[0], outputs[1], target, TRUST, LABELLED)
    assert float(report.supervised) == pytest.approx(float(supervise(outputs[0].detach(), target)))
    assert float(report.distillation) == pytest.approx(float(first.loss.detach()))
    assert torch.equal(report.voxels, first.voxels) and torch.isnan(report.ratio)
    assert not report.supervised.requires_grad and not report.distillation.requires_grad


def test_what_only_the_peer_contours_is_learnt_by_us_alone():
    """The class missing here pulls at us; we, who never contour it, do not pull at the peer."""
    data, target = batches()[0]
    ours, them = plain(learner(0)), peer()
    them.labelled, them.missing = torch.tensor([False, False]), torch.tensor([True, False])
    with torch.no_grad():
        ours.network[-1].bias[1], them.learner.network[-1].bias[1] = -9.0, 9.0  # both are sure
    plain(them.learner)
    networks = [copy.deepcopy(who.network) for who in (ours, them.learner)]
    own, other = (network(data) for network in networks)
    pull = DISTIL(own, other, target, TRUST, them.labelled, them.missing)

    report = train_with_peer(data, target, ours, them, METHOD)

    assert close(ours.network, stepped(networks[0], supervise(own, target) + 0.5 * pull.loss))
    assert close(them.learner.network, stepped(networks[1], supervise(other, target)))
    assert report.voxels[0] == (target == 0).sum() and float(report.distillation) > 0


@pytest.mark.parametrize("method", [METHOD, TWO_PASSES])
@pytest.mark.parametrize("learns", [True, False])
def test_a_peer_that_is_not_finite_is_left_out_of_the_step(method, learns):
    """NaN in the peer's weights: our step is stock's, bit for bit, and the peer's does not happen."""
    ours, alone, them = learner(0), learner(0), peer(learns=learns)
    with torch.no_grad():
        them.learner.network[0].weight[0] = torch.nan
    train_alone(alone)
    as_it_came = copy.deepcopy(them.learner.network)

    for data, target in batches():
        report = train_with_peer(data, target, ours, them, method, measure=True)

    assert same(ours.network, alone.network)
    assert float(report.distillation) == 0.0 and report.voxels.tolist() == [0, 0]
    assert them.damping == 1.0
    for now, then in zip(them.learner.network.parameters(), as_it_came.parameters(), strict=True):
        assert torch.equal(now, then) or not torch.isfinite(then).all()


@pytest.mark.parametrize("method", [METHOD, TWO_PASSES])
@pytest.mark.parametrize("learns", [True, False])
def test_a_peer_that_another_process_finds_broken_is_left_out_here_too(method, learns):
    """One question a step, answered by all; where the answer is no, every process trains alone."""
    ours, alone, them = learner(0), learner(0), peer(learns=learns)
    as_it_came, asked = copy.deepcopy(them.learner.network), []
    train_alone(alone)

    for data, target in batches():
        report = train_with_peer(data, target, ours, them, method, agree=asked.append)

    assert asked == [True] * 3
    assert same(ours.network, alone.network) and same(them.learner.network, as_it_came)
    assert float(report.distillation) == 0.0


def test_both_networks_step_in_mixed_precision():
    """Each with its own gradient scaler, on a CPU: finite weights that moved."""
    ours, them = learner(0, scaled=True), peer(scaled=True)
    before = copy.deepcopy([ours.network, them.learner.network])

    for data, target in batches():
        train_with_peer(data, target, ours, them, METHOD)

    for now, then in zip([ours.network, them.learner.network], before, strict=True):
        assert not same(now, then)
        assert all(torch.isfinite(p).all() for p in now.parameters())


class Overflowing(torch.autograd.Function):
    """A finite output with gradients that are not: what half precision does to a diverging network."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Bad(nn.Module):
    """A network whose gradients overflow."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Overflowing.apply(self.network(x))


@pytest.mark.parametrize("method", [METHOD, TWO_PASSES])
def test_a_peer_whose_gradients_overflow_leaves_our_scale_alone(method):
    """One scaler for both would be halved at every step, until our own weights became NaN."""
    ours, alone, them = learner(0, scaled=True), learner(0, scaled=True), peer(scaled=True, weight=0.0)
    them.learner.network = Bad(them.learner.network)
    as_it_came = copy.deepcopy(them.learner.network)
    train_alone(alone)

    for data, target in batches():
        train_with_peer(data, target, ours, them, method)

    assert same(ours.network, alone.network)
    assert ours.scaler.get_scale() == 1024.0 > them.learner.scaler.get_scale()
    assert same(them.learner.network, as_it_came)


def test_deep_supervision_distils_at_full_resolution_only():
    """Lists of outputs: the first scale decides the pull, the others change nothing of it."""
    data, target = batches()[0]
    single = train_with_peer(data, target, learner(0), peer(), METHOD)
    ours, them = two_scales(learner(0)), peer()
    two_scales(them.learner)

    double = train_with_peer(data, scales(target), ours, them, METHOD)

    assert float(double.distillation) == pytest.approx(float(single.distillation))
    assert torch.equal(double.voxels, single.voxels)


def test_all_heads_count_with_their_weights():
    """By hand: 2/3 of the pull at full and 1/3 at half resolution; a weight of 0 leaves a head out."""
    data, target = batches()[0]
    ours, theirs = two_scales(learner(0)), two_scales(learner(1))
    pulls = [
        DISTIL(*head, TRUST, LABELLED)
        for head in zip(ours.network(data), theirs.network(data), scales(target), strict=True)
    ]

    def report(*weights: float):
        them = peer()
        two_scales(them.learner)
        method = replace(METHOD, head_weights=weights)
        return train_with_peer(data, scales(target), two_scales(learner(0)), them, method)

    full, half = (float(pull.loss.detach()) for pull in pulls)
    assert float(report(2 / 3, 1 / 3).distillation) == pytest.approx(2 / 3 * full + 1 / 3 * half)
    assert float(report(1.0, 0.0).distillation) == pytest.approx(full)
    assert torch.equal(report(2 / 3, 1 / 3).voxels, pulls[0].voxels)


@pytest.mark.parametrize("method", [METHOD, TWO_PASSES])
def test_memory_that_runs_out_in_the_peers_part_leaves_our_step_done_once(method):
    """The report comes with the error, so that nobody takes our step again."""
    ours, expected, them = learner(0), learner(0), peer()
    train_with_peer(*batches()[0], expected, peer(), method)

    def too_large() -> None:
        raise torch.OutOfMemoryError("out of memory")

    them.learner.optimizer.step = too_large

    with pytest.raises(PeerTooLargeError) as error:
        train_with_peer(*batches()[0], ours, them, method)

    assert same(ours.network, expected.network)
    assert torch.isfinite(error.value.report.supervised)


def test_memory_that_runs_out_in_our_part_is_told_as_it_is():
    """Neither has stepped; whoever asked may try in another way."""
    ours, them = learner(0), peer()

    def too_large() -> None:
        raise torch.OutOfMemoryError("out of memory")

    ours.optimizer.step = too_large

    with pytest.raises(torch.OutOfMemoryError):
        train_with_peer(*batches()[0], ours, them, METHOD)
