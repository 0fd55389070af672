"""Weights from one training to another, in the type that the sender's site file names."""

import time
from dataclasses import replace

import pytest
import torch
from courier_kit import FACTS, build_sites
from torch import nn

from nnunet_gml import payload, weights
from nnunet_gml.exchange import Exchange


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))


def received(exchange, network, seconds=60.0):
    """The arrival, as soon as it is there."""
    end = time.monotonic() + seconds
    while (arrival := exchange.receive(network)) is None:
        assert time.monotonic() < end, "nothing has arrived"
        time.sleep(0.05)
    return arrival


@pytest.mark.parametrize("dtype", payload.DTYPES)
def test_a_site_offers_the_type_it_was_told_to(network, tmp_path, dtype):
    """The manifest says which, and the peer takes it in; its bytes are those of that type."""
    sites = build_sites(tmp_path)
    said: list[str] = []
    north, south = (
        Exchange(replace(sites[name], payload=kind), network, said.append)
        for name, kind in (("north", dtype), ("south", "float16"))
    )
    facts = replace(FACTS, schema_digest=north.schema_digest)
    try:
        for exchange, peer in ((north, "south"), (south, "north")):
            exchange.start()
            exchange.begin_round(network, facts, (peer,))
        arrival = received(south, network)
    finally:
        north.stop()
        south.stop()

    manifest = arrival.delivery.manifest
    assert manifest.dtype == dtype
    assert manifest.weights_bytes == weights.payload_bytes(network)[dtype]
    assert torch.allclose(arrival.tensors["0.weight"], network[0].weight, atol=1e-3), said
