"""torch.compile: both networks, never the distillation loss; the peer's once per run, not once per round."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from mutual_kit import DISTIL, LABELLED, TRUST
from nnunet_kit import WaitingTrainer
from trainer_kit import a_little_further, rounds

from nnunet_gml import weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Backend:
    """Compiles nothing; knows how many graphs it was given, and from which source files they come."""

    def __init__(self) -> None:
        self.graphs, self.files = 0, set()

    def __call__(self, module: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        self.graphs += 1
        for node in module.graph.nodes:
            self.files |= set(re.findall(r'File "(.*?)"', node.stack_trace or ""))
        return module.forward


class Compiled(WaitingTrainer):
    """Meets the same weights in two rounds; compiles as on a GPU, but without a compiler's backend."""

    mutual_epochs = 1

    def _do_i_compile(self) -> bool:
        return True

    def receive(self):
        arrival = super().receive()
        self.last = arrival or getattr(self, "last", None)
        return arrival

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if self.current_epoch == 3:
            self.after_one_visit = self.backend.graphs
            weights.put(self.last.tensors, self.peer_network)
            self._meet(self.last)


def test_both_networks_are_compiled_once_and_the_distillation_never(run, monkeypatch):
    """A second visit with other weights compiles nothing anew; no graph has a line of our own step."""
    ours, nnunets = Backend(), Backend()
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=nnunets))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend=ours))
    monkeypatch.setattr(Compiled, "backend", ours, raising=False)

    trainer = run(Compiled, peer=a_little_further, epochs=4)

    assert [(line["event"], line.get("used")) for line in rounds(trainer)] == [
        ("met", True),
        ("left", None),
    ] * 2
    assert 0 < trainer.after_one_visit == ours.graphs
    for backend in (ours, nnunets):
        assert any("dynamic_network_architectures" in file for file in backend.files)
        assert not any("nnunet_gml" in file for file in backend.files)


def test_a_distillation_in_a_graph_would_be_seen():
    """What the last test relies on: the backend knows the file of what it is given."""
    backend = Backend()
    logits = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)

    torch.compile(DISTIL, backend=backend)(
        logits, logits.detach().flip(1), torch.ones(1, 1, 4, 4, 4), TRUST, LABELLED
    )

    assert any(file.endswith("distillation.py") for file in backend.files)
