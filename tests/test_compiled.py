"""torch.compile: both networks, never the distillation loss; the peer's once per run, not once per round."""

from __future__ import annotations

import functools

import pytest
import torch
from nnunet_kit import WaitingTrainer
from torch._dynamo.testing import CompileCounter
from trainer_kit import a_little_further, rounds

from nnunet_gml import weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Compiled(WaitingTrainer):
    """Meets the same weights in two rounds; compiles as on a GPU, but without a compiler's backend."""

    counter = CompileCounter()
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
            self.after_one_visit = self.counter.frame_count
            weights.put(self.last.tensors, self.peer_network)
            self._meet(self.last)


def test_the_peers_network_is_compiled_once_for_all_rounds(run, monkeypatch):
    """A second visit with other weights compiles nothing anew."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compile_module(self, backend=Compiled.counter)
    )

    ours = run(Compiled, peer=a_little_further, epochs=4)

    assert [line["event"] for line in rounds(ours)] == ["met", "left"] * 2
    assert ours.after_one_visit > 0
    assert ours.counter.frame_count == ours.after_one_visit
