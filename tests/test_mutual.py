"""The step of two networks: what moves, what stays, what is left out."""

import copy

import pytest
import torch
from torch import nn

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.mutual import Learner, Peer, train_with_peer

DISTIL = ClassWiseDistillation(smoothing=1, minimum_voxels=1)
LABELLED = torch.ones(2, dtype=torch.bool)


def learner(seed: int, scaled: bool = False) -> Learner:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 3, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.99, nesterov=True)
    return Learner(network, optimizer, torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None)


TRUST, TRUST_IN_US = torch.tensor([1.0, 0.3]), torch.tensor([0.2, 0.9])


def peer(seed: int = 1, scaled: bool = False, weight: float = 0.5, learns: bool = True) -> Peer:
    return Peer(learner(seed, scaled), TRUST, TRUST_IN_US, LABELLED, weight, learns)


def supervise(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target[:, 0].long())


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    shape = (2, 1, 6, 6, 6)
    return [
        (torch.randn(shape, generator=generator), torch.randint(0, 3, shape, generator=generator))
        for _ in range(count)
    ]


def train_alone(who: Learner) -> None:
    """nnU-Net's step, in its order."""
    for data, target in batches():
        who.optimizer.zero_grad(set_to_none=True)
        loss = supervise(who.network(data), target)
        (who.scaler.scale(loss) if who.scaler else loss).backward()
        if who.scaler:
            who.scaler.unscale_(who.optimizer)
        nn.utils.clip_grad_norm_(who.network.parameters(), 12)
        if who.scaler:
            who.scaler.step(who.optimizer)
            who.scaler.update()
        else:
            who.optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("learns", [True, False])
def test_weight_zero_is_training_alone_bit_for_bit(learns):
    """With λ = 0 neither network feels the other."""
    ours, alone, them = learner(0), learner(0), peer(weight=0.0, learns=learns)
    train_alone(alone)

    for data, target in batches():
        train_with_peer(data, target, ours, them, supervise, DISTIL)

    assert same(ours.network, alone.network)


def test_mutual_moves_both_and_frozen_only_ours():
    """Mutual: two networks learn. Frozen: the peer's stays as it came."""
    for learns in (True, False):
        ours, them = learner(0), peer(learns=learns)
        as_it_came = copy.deepcopy(them.learner.network)
        before = copy.deepcopy(ours.network)

        train_with_peer(*batches()[0], ours, them, supervise, DISTIL)

        assert not same(ours.network, before)
        assert same(them.learner.network, as_it_came) is not learns


def test_each_step_is_the_gradient_of_supervision_plus_weighted_distillation():
    """One step of plain SGD by hand, for both: θ - lr · ∂(L_sup + λ L_dist)/∂θ, each with its own trust."""
    ours, them = learner(0), peer()
    data, target = batches()[0]
    by_hand = [copy.deepcopy(who.network) for who in (ours, them.learner)]
    for who in (ours, them.learner):
        who.optimizer = torch.optim.SGD(who.network.parameters(), lr=0.1)
    outputs = [network(data) for network in by_hand]
    expected = []
    for number, trust in ((0, TRUST), (1, TRUST_IN_US)):
        own, other = outputs[number], outputs[1 - number].detach()
        loss = supervise(own, target) + 0.5 * DISTIL(own, other, target, trust, LABELLED)
        parameters = list(by_hand[number].parameters())
        expected.append(
            [p - 0.1 * g for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]
        )

    losses = train_with_peer(data, target, ours, them, supervise, DISTIL)

    for who, values in zip((ours, them.learner), expected, strict=True):
        for now, then in zip(who.network.parameters(), values, strict=True):
            assert torch.allclose(now, then, atol=1e-7)
    assert float(losses.distillation) > 0


@pytest.mark.parametrize("learns", [True, False])
def test_a_peer_that_is_not_finite_is_left_out_of_the_step(learns):
    """NaN in the peer's weights: our step is stock's, bit for bit, and the peer's does not happen."""
    ours, alone, them = learner(0), learner(0), peer(learns=learns)
    with torch.no_grad():
        them.learner.network[0].weight[0] = torch.nan
    train_alone(alone)
    as_it_came = copy.deepcopy(them.learner.network)

    for data, target in batches():
        losses = train_with_peer(data, target, ours, them, supervise, DISTIL)

    assert same(ours.network, alone.network)
    assert float(losses.distillation) == 0.0
    for now, then in zip(them.learner.network.parameters(), as_it_came.parameters(), strict=True):
        assert torch.equal(now, then) or not torch.isfinite(then).all()


def test_both_networks_step_in_mixed_precision():
    """Each with its own gradient scaler, on a CPU: finite weights that moved."""
    ours, them = learner(0, scaled=True), peer(scaled=True)
    before = copy.deepcopy([ours.network, them.learner.network])

    for data, target in batches():
        train_with_peer(data, target, ours, them, supervise, DISTIL)

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


def test_a_peer_whose_gradients_overflow_leaves_our_scale_alone():
    """One scaler for both would be halved at every step, until our own weights became NaN."""

    class Bad(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Overflowing.apply(self.network(x))

    ours, alone, them = learner(0, scaled=True), learner(0, scaled=True), peer(scaled=True, weight=0.0)
    them.learner.network = Bad(them.learner.network)
    as_it_came = copy.deepcopy(them.learner.network)
    train_alone(alone)

    for data, target in batches():
        train_with_peer(data, target, ours, them, supervise, DISTIL)

    assert same(ours.network, alone.network)
    assert ours.scaler.get_scale() == 1024.0 > them.learner.scaler.get_scale()
    assert same(them.learner.network, as_it_came)


def test_deep_supervision_distils_at_full_resolution_only():
    """Lists of outputs: the first scale decides the pull, the others change nothing of it."""

    class TwoScales(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            full = self.network(x)
            return [full, nn.functional.avg_pool3d(full, 2)]

    def supervise_scales(output, target):
        return supervise(output[0], target[0]) + 0.5 * supervise(output[1], target[1])

    data, target = batches()[0]
    single = train_with_peer(data, target, learner(0), peer(), supervise, DISTIL)
    ours, them = learner(0), peer()
    ours.network, them.learner.network = TwoScales(ours.network), TwoScales(them.learner.network)

    double = train_with_peer(data, [target, target[..., ::2, ::2, ::2]], ours, them, supervise_scales, DISTIL)

    assert float(double.distillation) == pytest.approx(float(single.distillation))
