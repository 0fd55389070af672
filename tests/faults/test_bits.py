"""Single flipped bits in what a peer offers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from courier_kit import build_sites, collect, offer
from torch import nn

from nnunet_gml import weights
from peer_sync.errors import RejectedError
from peer_sync.mailbox import Mailbox

POSITIONS = 1000


@pytest.fixture
def boxes(memory_path) -> Iterator[tuple[Mailbox, Mailbox]]:
    """North and south, open."""
    north, south = (Mailbox(site) for site in build_sites(memory_path).values())
    yield north, south
    north.close()
    south.close()


def flipped(data: bytes, bit: int) -> bytes:
    """The same with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_no_flipped_bit_is_accepted(boxes, record_property):
    """One bit of the manifest, the signature or the weights is flipped, at random positions.

    Refused by a rule each time; the unchanged offer is accepted afterwards.
    """
    north, south = boxes
    offer(south)
    files = {path: path.read_bytes() for path in sorted(south.outbox.iterdir())}
    bits = [(path, bit) for path, data in files.items() for bit in range(8 * len(data))]
    rules: Counter[str] = Counter()

    for path, bit in random.Random(20261121).sample(bits, POSITIONS):
        path.write_bytes(flipped(files[path], bit))
        with pytest.raises(RejectedError) as caught:
            collect(north, south)
        rules[f"{path.suffix} {caught.value.rule}"] += 1
        path.write_bytes(files[path])

    assert rules.total() == POSITIONS
    assert {name.split()[0] for name in rules} == {".json", ".sig", ".safetensors"}
    assert rules[".safetensors sha256"] > 100
    assert rules[".sig signature"] > 100
    north.accept(collect(north, south))
    record_property("cases", POSITIONS)


def test_no_flipped_bit_of_a_header_is_read(tmp_path, record_property):
    """Any one bit of a safetensors header is flipped, and hash and signature fit: the peer itself did it.

    Refused by rule header each time.
    """
    network = nn.Conv3d(1, 2, 1)
    path = tmp_path / "weights.safetensors"
    weights.write(network, path)
    data = path.read_bytes()
    header_bits = 8 * (8 + int.from_bytes(data[:8], "little"))

    for bit in range(header_bits):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(weights.WeightsError) as caught:
            weights.read(path, network, "float16")
        assert caught.value.rule == "header"

    path.write_bytes(data)
    tensors, _ = weights.read(path, network, "float16")
    assert torch.allclose(tensors["weight"], network.weight, rtol=2**-11, atol=1e-6)
    record_property("cases", header_bits)
