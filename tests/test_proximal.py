"""FedProx's term: its gradient, and when it acts."""

import copy

import pytest
import torch
from torch import Tensor, nn

from nnunet_gml.proximal import ProximalTerm

MU = 0.3


class Training:
    """A small network, its optimiser as nnU-Net's, and a step in nnU-Net's order."""

    def __init__(self, momentum: float = 0.99, scaler: torch.amp.GradScaler | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.1, momentum=momentum, nesterov=momentum > 0
        )
        self.scaler = scaler

    def loss(self, seed: int) -> Tensor:
        data = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        return self.network(data).square().mean()

    def step(self, seed: int, more: Tensor | float = 0.0, factor: float = 1.0) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = factor * self.loss(seed) + more
        if self.scaler is None:
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.network.parameters()]


def are_close(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one, other, strict=True))


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_the_steps_are_those_of_the_penalised_loss(scaled):
    """Against autograd of μ/2 |θ - θ0|² added to the loss; with and without a gradient scaler."""
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None for _ in range(2)]
    hooked, penalised = (Training(scaler=scaler) for scaler in scalers)
    term = ProximalTerm(hooked.network, hooked.optimizer, MU)
    for training in (hooked, penalised):
        training.step(seed=0)
    term.anchor_here()
    anchor = penalised.weights()

    for seed in range(1, 6):
        hooked.step(seed)
        parameters = penalised.network.parameters()
        gaps = ((p - a).square().sum() for p, a in zip(parameters, anchor, strict=True))
        penalised.step(seed, more=MU / 2 * sum(gaps))

    assert are_close(hooked.weights(), penalised.weights())
    assert not are_close(hooked.weights(), anchor)


def test_one_step_by_hand():
    """θ = 3, θ0 = 1, gradient 0.5, μ = 0.3, rate 0.1: 3 - 0.1 * (0.5 + 0.3 * 2) = 2.89."""
    network = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    term = ProximalTerm(network, optimizer, MU)
    nn.init.constant_(network.weight, 1.0)
    term.anchor_here()
    nn.init.constant_(network.weight, 3.0)
    network.weight.grad = torch.full((1, 1), 0.5)

    optimizer.step()

    assert network.weight.item() == pytest.approx(2.89)


def test_the_term_is_added_after_clipping():
    """Gradients of norm 12 and a pull of its own size: the pull is neither clipped nor does it scale them."""
    hooked, plain = Training(momentum=0), Training(momentum=0)
    ProximalTerm(hooked.network, hooked.optimizer, MU).anchor_here()
    anchor = hooked.weights()
    for training in (hooked, plain):
        for parameter in training.network.parameters():
            nn.init.constant_(parameter, 10.0)
    moved = hooked.weights()

    hooked.step(seed=0, factor=1e6)
    plain.step(seed=0, factor=1e6)

    expected = [p - 0.1 * MU * (m - a) for p, m, a in zip(plain.weights(), moved, anchor, strict=True)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(hooked.weights(), expected, strict=True))


def test_a_step_that_the_scaler_skips_has_no_pull():
    """Gradients that overflow: weights and momentum stay as they are."""
    training = Training(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    term = ProximalTerm(training.network, training.optimizer, MU)
    term.anchor_here()
    training.step(seed=0)
    before = training.weights()
    momentum = copy.deepcopy(training.optimizer.state_dict()["state"])

    training.step(seed=1, factor=float("inf"))

    assert are_equal(training.weights(), before)
    after = training.optimizer.state_dict()["state"]
    assert all(torch.equal(after[n]["momentum_buffer"], momentum[n]["momentum_buffer"]) for n in momentum)
    assert training.scaler.get_scale() < 1024.0


def test_weight_zero_is_the_optimiser_bit_for_bit():
    """So is a term without an anchor, and one that was removed, whoever anchors it again."""
    plain, zero, loose, removed = (Training() for _ in range(4))
    ProximalTerm(zero.network, zero.optimizer, 0.0).anchor_here()
    ProximalTerm(loose.network, loose.optimizer, MU)
    term = ProximalTerm(removed.network, removed.optimizer, MU)
    term.anchor_here()
    term.remove()
    term.anchor_here()

    for seed in range(3):
        for training in (plain, zero, loose, removed):
            training.step(seed)

    assert all(are_equal(training.weights(), plain.weights()) for training in (zero, loose, removed))


def test_a_parameter_without_a_gradient_is_left_alone():
    """nnU-Net's lowest deep supervision layer never gets one."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    term = ProximalTerm(network, optimizer, MU)
    term.anchor_here()
    nn.init.constant_(network.bias, 5.0)
    network.weight.grad = torch.zeros_like(network.weight)

    optimizer.step()

    assert network.bias.item() == 5.0
    assert network.bias.grad is None


def test_the_anchor_is_in_no_checkpoint():
    """A stock checkpoint stays stock."""
    with_term, without = Training(), Training()
    ProximalTerm(with_term.network, with_term.optimizer, MU).anchor_here()
    for training in (with_term, without):
        training.step(seed=0)

    one, other = (training.optimizer.state_dict() for training in (with_term, without))

    assert one.keys() == other.keys()
    assert one["state"][0].keys() == other["state"][0].keys()
    assert with_term.network.state_dict().keys() == without.network.state_dict().keys()


def test_a_negative_weight_is_refused():
    """It would push away from the anchor, faster and faster."""
    training = Training()

    with pytest.raises(ValueError, match=r"weight is -0\.1"):
        ProximalTerm(training.network, training.optimizer, -0.1)


def test_a_fused_optimiser_is_refused():
    """It unscales gradients inside its step: the hook would add to scaled ones, also in a skipped step."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)

    with pytest.raises(ValueError, match="fused"):
        ProximalTerm(network, optimizer, MU)
