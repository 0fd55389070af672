"""Weights on their way into a file, while the network goes on."""

from dataclasses import replace
from threading import Event

import pytest
import torch
from courier_kit import FACTS, build_sites
from torch import nn

from nnunet_gml.exchange import Exchange
from nnunet_gml.offering import Offering
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


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))


def test_training_goes_on_while_a_copy_is_written():
    """What is written is the network of the moment in which the round began."""
    ours, offering, writer = network(), Offering(), Writer()
    before = {name: tensor.clone() for name, tensor in named_tensors(ours).items()}

    offering.begin(ours, writer)
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

    offering.begin(ours, first)
    first.may.set()
    offering.begin(ours, second)

    assert len(first.seen) == 1
    assert offering.written() == "float16" and len(second.seen) == 1


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
    ours, offering, writer = network().cuda(), Offering(), Writer()
    before = {name: tensor.cpu().clone() for name, tensor in named_tensors(ours).items()}
    writer.may.set()

    offering.begin(ours, writer)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    offering.written()

    assert all(torch.equal(writer.seen[0][name], tensor) for name, tensor in before.items())
