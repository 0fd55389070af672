"""Weights on their way into a file, while the network goes on."""

import subprocess
import sys
from dataclasses import replace
from threading import Event, Thread

import pytest
import torch
from courier_kit import FACTS, build_sites
from torch import nn

from nnunet_gml.exchange import Exchange
from nnunet_gml.offering import Offering, room_for
from nnunet_gml.tensors import named_tensors

LIMIT = 60


class Writer:
    """Keeps what it is given, as soon as it may."""

    def __init__(self):
        self.may, self.seen = Event(), []

    def __call__(self, tensors):
        assert self.may.wait(LIMIT)
        self.seen.append({name: tensor.clone() for name, tensor in tensors.items()})
        return "float16"


def fail(error):
    raise AssertionError from error


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))


def test_training_goes_on_while_a_copy_is_written():
    """What is written is the network of the moment in which the round began."""
    ours, offering, writer = network(), Offering(), Writer()
    before = {name: tensor.clone() for name, tensor in named_tensors(ours).items()}

    offering.begin(ours, writer, fail)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert not writer.seen
    writer.may.set()

    assert offering.written() == "float16"
    assert writer.seen[0].keys() == before.keys()
    assert all(torch.equal(writer.seen[0][name], tensor) for name, tensor in before.items())


def test_the_next_offer_waits_for_the_last_one():
    """One copy in memory, which nobody overwrites while it is read."""
    ours, offering, first, second = network(), Offering(), Writer(), Writer()
    second.may.set()

    offering.begin(ours, first, fail)
    next_ = Thread(target=offering.begin, args=(ours, second, fail))
    next_.start()
    next_.join(0.5)
    assert next_.is_alive() and not second.seen
    first.may.set()
    next_.join(LIMIT)

    assert offering.written() == "float16" and (len(first.seen), len(second.seen)) == (1, 1)


def test_without_page_locked_memory_a_copy_is_an_ordinary_one():
    """Where there is no GPU torch cannot lock pages at all, as where an administrator allows none."""
    if torch.cuda.is_available():
        pytest.skip("page-locked memory is to be had here")
    with pytest.raises(RuntimeError):
        torch.empty(3, pin_memory=True)

    room = room_for(torch.Size([2, 3]), torch.float16, page_locked=True)

    assert room.shape == (2, 3) and room.dtype == torch.float16 and not room.is_pinned()


def test_whatever_goes_wrong_is_told():
    """Not only what was expected; and the next offer is as good as any."""
    ours, offering, told, writer = network(), Offering(), [], Writer()
    writer.may.set()

    def breaks(_):
        raise MemoryError("no room")

    offering.begin(ours, breaks, told.append)
    assert offering.written() == "" and isinstance(told[0], MemoryError)
    offering.begin(ours, writer, fail)
    assert offering.written() == "float16"


def test_a_process_that_ends_meanwhile_ends_as_it_would(tmp_path):
    """With its own exit code, and the file whole: torch in a daemon thread would abort it."""
    code = f"""
import sys, torch
from pathlib import Path
from torch import nn
from nnunet_gml import weights
from nnunet_gml.offering import Offering

network = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(20)))
def write(tensors):
    return [weights.write(tensors, Path({str(tmp_path / "w")!r})) for _ in range(5)][-1]
Offering().begin(network, write, print)
sys.exit(2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 2, done.stderr
    assert (tmp_path / "w").stat().st_size > 2 * 20 * 1000 * 1000


def test_nothing_was_written_before_the_first_offer():
    assert Offering().written() == ""


def test_what_cannot_be_offered_is_told_and_nobody_is_asked(tmp_path):
    """A network that has diverged: the log says so, and this round has no peer."""
    ours, said = network(), []
    exchange = Exchange(build_sites(tmp_path)["north"], ours, said.append)
    with torch.no_grad():
        ours[0].weight.fill_(torch.nan)
    try:
        exchange.start()
        exchange.begin_round(ours, replace(FACTS, round=3), ("south",))

        assert exchange.offered() == ""
        assert exchange.open_peers() == set()
    finally:
        exchange.stop()
    assert any("round 3: nothing offered: our own weights hold NaN" in sentence for sentence in said)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_s_weights_are_those_before_the_next_step():
    ours, offering, writer = nn.Linear(4000, 4000).cuda(), Offering(), Writer()
    before = {name: tensor.cpu().clone() for name, tensor in named_tensors(ours).items()}
    writer.may.set()

    torch.cuda._sleep(10**9)
    offering.begin(ours, writer, fail)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    offering.written()

    assert all(torch.equal(writer.seen[0][name], tensor) for name, tensor in before.items())
