"""The low-memory step: one network at a time, same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mutual_kit import METHOD, batches, learner, peer, scales, supervise, two_scales
from torch import nn

from nnunet_gml.mutual import train_with_peer

TWO_PASSES = replace(METHOD, in_two_passes=True)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("heads", [(), (1.0,), (0.6, 0.4)])
def test_same_numbers_as_one_pass(scaled, learns, heads):
    """Three steps, weights and reports bit for bit; without deep supervision and with one or all heads."""
    results = []
    for method in (METHOD, TWO_PASSES):
        ours, them = learner(0, scaled), peer(scaled=scaled, learns=learns)
        if heads:
            two_scales(ours)
            two_scales(them.learner)
            method = replace(method, head_weights=heads)
        reports = [
            train_with_peer(data, scales(target) if heads else target, ours, them, method)
            for data, target in batches()
        ]
        weights = [p for who in (ours, them.learner) for p in who.network.parameters()]
        results.append([*weights, *(value for report in reports for value in report[:3])])

    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


class Watched(nn.Module):
    """Tells of each graph that a forward builds."""

    def __init__(self, network: nn.Module, graphs: Graphs) -> None:
        super().__init__()
        self.network, self.graphs = network, graphs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.network(x)
        if output.requires_grad:
            self.graphs.opened(output.grad_fn)
        return output


class Graphs:
    """How many graphs are alive now, and how many were at most."""

    def __init__(self) -> None:
        self.alive = self.most = self.total = 0

    def opened(self, node: torch.autograd.graph.Node) -> None:
        """A forward is done; its graph ends when the backward has passed the output."""
        self.alive += 1
        self.total += 1
        self.most = max(self.most, self.alive)
        node.register_hook(self.closed)

    def closed(self, *_: object) -> None:
        self.alive -= 1


@pytest.mark.parametrize(("in_two_passes", "at_most"), [(True, 1), (False, 2)])
def test_only_one_graph_is_alive(in_two_passes, at_most):
    """Both networks build one graph a step; in two passes the second begins when the first is spent."""
    graphs, ours, them = Graphs(), learner(0), peer()
    for who in (ours, them.learner):
        who.network = Watched(who.network, graphs)

    train_with_peer(*batches()[0], ours, them, replace(METHOD, in_two_passes=in_two_passes))

    assert (graphs.total, graphs.most, graphs.alive) == (2, at_most, 0)


def test_a_frozen_peer_runs_once():
    """Nothing to save where the peer has no graph: one forward, as in one pass."""
    them, calls = peer(learns=False), []
    them.learner.network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))

    train_with_peer(*batches()[0], learner(0), them, TWO_PASSES)

    assert calls == [False]


def test_our_step_comes_first_and_the_peer_learns_from_what_we_were():
    """The peer's second pass uses our output from before our step, as in one pass."""
    data, target = batches()[0]
    ours, them = learner(0), peer()
    before = ours.network(data).detach()
    seen = []

    def distil(logits, peer_logits, *rest):
        seen.append((logits, peer_logits))
        return METHOD.distil(logits, peer_logits, *rest)

    train_with_peer(data, target, ours, them, replace(TWO_PASSES, supervise=supervise, distil=distil))

    assert torch.equal(seen[-1][1], before) and seen[-1][0].requires_grad
