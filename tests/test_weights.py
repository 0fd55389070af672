"""Weights as safetensors: what is written, and what is refused."""

import copy
import errno
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nnunet_gml import weights
from nnunet_gml.weights import WeightsError


class Shared(nn.Module):
    """Two names for one tensor, as nnU-Net's decoder holds its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(1, 4, 3)
        self.decoder = nn.ModuleDict({"encoder": self.encoder, "head": nn.Conv3d(4, 2, 1)})


@pytest.fixture
def network() -> Shared:
    torch.manual_seed(0)
    return Shared()


@pytest.fixture
def offered(network, tmp_path):
    """A valid file of a network a little further on than ours."""
    path = tmp_path / "peer.safetensors"
    torch.manual_seed(1)
    peer = Shared()
    for name, tensor in weights.named_tensors(peer).items():
        tensor.copy_(weights.named_tensors(network)[name] + 0.01 * torch.randn_like(tensor))
    weights.write(peer, path)
    return path


def test_a_shared_tensor_travels_once(network, tmp_path):
    """The first name wins; without this nnU-Net's weights would travel up to four times."""
    path = tmp_path / "w.safetensors"

    weights.write(network, path)

    assert sorted(load_file(path)) == [
        "decoder.head.bias", "decoder.head.weight", "encoder.bias", "encoder.weight",
    ]  # fmt: skip
    assert len(network.state_dict()) == 6


def test_written_weights_come_back(network, tmp_path):
    """float16 on the way: equal to half precision, 2^-11 relative."""
    path = tmp_path / "w.safetensors"
    assert weights.write(network, path) == "float16"
    other = Shared()

    tensors, likeness = weights.read(path, network, "float16")
    weights.put(tensors, other)

    assert torch.allclose(other.encoder.weight, network.encoder.weight, rtol=2**-11, atol=1e-6)
    assert other.decoder["encoder"].weight is other.encoder.weight
    assert likeness.distance < 2**-11 and likeness.cosine == pytest.approx(1)


def test_weights_too_large_for_half_precision_are_written_in_full(network, tmp_path):
    """70000 is above float16's largest number, 65504."""
    with torch.no_grad():
        network.encoder.bias[0] = 70000.0

    assert weights.write(network, tmp_path / "w.safetensors") == "float32"
    tensors, _ = weights.read(tmp_path / "w.safetensors", network, "float32")
    assert tensors["encoder.bias"][0] == 70000.0


def test_our_own_nan_is_not_offered(network, tmp_path):
    """A diverged network stays at home."""
    with torch.no_grad():
        network.encoder.bias[0] = torch.nan

    with pytest.raises(WeightsError, match="our own weights"):
        weights.write(network, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_compiled_and_plain_networks_have_the_same_schema(network):
    """torch.compile changes the names in a state_dict, not the network."""
    assert weights.schema_digest(torch.compile(network)) == weights.schema_digest(network)


def test_schema_digest_tells_shapes_apart(network):
    """Another number of features is another schema."""
    other = Shared()
    other.decoder["head"] = nn.Conv3d(4, 3, 1)

    assert weights.schema_digest(other) != weights.schema_digest(network)


def refused(path, network, dtype="float16") -> str:
    with pytest.raises(WeightsError) as error:
        weights.read(path, network, dtype)
    return error.value.rule


def test_truncated_file_is_refused(offered, network):
    """One byte short."""
    offered.write_bytes(offered.read_bytes()[:-1])

    assert refused(offered, network) == "size"


def test_unknown_type_is_refused(offered, network):
    """Only the types of the protocol."""
    assert refused(offered, network, "bfloat16") == "dtype"
    assert refused(offered, network, "float32") == "size"


def test_wrong_shapes_are_refused(offered, network):
    """As many bytes, other shapes: the header differs."""
    tensors = load_file(offered)
    tensors["encoder.weight"] = tensors["encoder.weight"].reshape(4, 27, 1, 1, 1)
    save_file(tensors, offered)

    assert refused(offered, network) == "header"


def test_a_strangers_header_is_never_parsed(offered, network):
    """Same length, another tensor name: refused by comparing bytes."""
    blob = offered.read_bytes()
    offered.write_bytes(blob.replace(b'"encoder.bias"', b'"encoder.bbbb"', 1))

    assert refused(offered, network) == "header"


def test_a_header_length_from_nowhere_is_refused(offered, network):
    """The first eight bytes claim 2^60 bytes of header: nothing of that size is read."""
    blob = offered.read_bytes()
    offered.write_bytes(struct.pack("<Q", 2**60) + blob[8:])

    assert refused(offered, network) == "header"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t["encoder.bias"].__setitem__(0, torch.nan), "finite"),
        (lambda t: t["encoder.bias"].__setitem__(0, -torch.inf), "finite"),
        (lambda t: t["encoder.weight"].mul_(100), "norm"),
        (lambda t: t["encoder.weight"].mul_(0.1), "norm"),
        (lambda t: [x.neg_() for x in t.values()], "cosine"),
        (lambda t: t["encoder.bias"].add_(50), "distance"),
    ],
    ids=["nan", "inf", "times 100", "tenth", "sign flip", "bias of 50"],
)
def test_poisoned_weights_are_refused(offered, network, change, rule):
    """Changes that a validation Dice may not see (InstanceNorm hides a factor of 100) break a rule here."""
    tensors = load_file(offered)
    change(tensors)
    save_file(tensors, offered)

    assert refused(offered, network) == rule


def test_a_full_disk_is_an_os_error(network, tmp_path, monkeypatch):
    """What the trainer catches: not safetensors' own exception."""

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(OSError, match="No space left"):
        weights.write(network, tmp_path / "w.safetensors")


def test_likeness_of_known_weights(network, tmp_path):
    """By hand: all weights times 1.5 are half our norm away, in our direction."""
    path = tmp_path / "w.safetensors"
    peer = copy.deepcopy(network)
    for tensor in weights.named_tensors(peer).values():
        tensor.mul_(1.5)
    weights.write(peer, path, "float32")

    _, likeness = weights.read(path, network, "float32")

    assert likeness == pytest.approx((0.5, 1.0), abs=1e-6)


def test_header_says_what_the_format_says(offered):
    """A safetensors file is a length, that many bytes of JSON, then the tensors; no metadata of ours."""
    blob = offered.read_bytes()
    header = json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])

    assert "__metadata__" not in header
    assert {entry["dtype"] for entry in header.values()} == {"F16"}
