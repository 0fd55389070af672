"""Weights as safetensors: what is written, and what is refused."""

import copy
import errno
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from nnunet_gml import payload, weights
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


def test_8_bit_weights_come_back(network, tmp_path):
    """Within half a 127th of the channel's largest weight."""
    path = tmp_path / "w.safetensors"
    assert weights.write(network, path, "int8") == "int8"

    tensors, likeness = weights.read(path, network, "int8")

    error = (tensors["encoder.weight"] - network.encoder.weight).abs().flatten(1).amax(1)
    assert (error <= 0.501 / 127 * network.encoder.weight.abs().flatten(1).amax(1)).all()
    assert torch.equal(tensors["encoder.bias"], network.encoder.bias)
    assert 0 < likeness.distance < 0.01


@pytest.mark.parametrize(
    ("dtype", "name", "number"),
    [("float16", "bias", 70000.0), ("float16", "weight", -70000.0), ("int8", "weight", 2e38)],
)
def test_weights_too_large_for_the_type_are_written_in_full(network, tmp_path, dtype, name, number):
    """Above 65504 (float16), or above 127 * 2^120 = 1.7e38 (int8): float32, which any peer can read."""
    with torch.no_grad():
        getattr(network.encoder, name).flatten()[0] = number

    assert weights.write(network, tmp_path / "w.safetensors", dtype) == "float32"
    tensors, _ = weights.read(tmp_path / "w.safetensors", network, "float32")
    assert tensors[f"encoder.{name}"].flatten()[0] == number


@pytest.mark.parametrize("name", ["bias", "weight"])
@pytest.mark.parametrize("dtype", payload.DTYPES)
def test_our_own_nan_is_not_offered(network, tmp_path, dtype, name):
    """A diverged network stays at home."""
    with torch.no_grad():
        getattr(network.encoder, name).flatten()[0] = torch.nan

    with pytest.raises(WeightsError, match="our own weights"):
        weights.write(network, tmp_path / "w.safetensors", dtype)
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("dtype", payload.DTYPES)
def test_size_of_a_file_is_known_before_it_is_written(network, tmp_path, dtype):
    """The one size that is accepted from a peer."""
    weights.write(network, tmp_path / "w.safetensors", dtype)

    assert weights.payload_bytes(network)[dtype] == (tmp_path / "w.safetensors").stat().st_size


def test_our_own_network_is_not_serialised_to_check_a_peers(offered, network, monkeypatch):
    """Its header follows from names, shapes and types."""
    monkeypatch.setattr(weights, "save", None)

    weights.read(offered, network, "float16")
    weights.payload_bytes(network)


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


def test_unknown_type_is_refused(offered, network, tmp_path):
    """Only the types of the protocol, for reading and for writing."""
    assert refused(offered, network, "bfloat16") == "dtype"
    assert refused(offered, network, "float32") == "size"
    with pytest.raises(WeightsError, match="float16, float32, int8"):
        weights.write(network, tmp_path / "w.safetensors", "bfloat16")


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


@pytest.fixture
def offered_8_bits(offered, network):
    """The same peer's file in 8 bits."""
    tensors, _ = weights.read(offered, network, "float16")
    offered.write_bytes(save(payload.encode(tensors, "int8")))
    return offered


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t["encoder.weight.scale"].__setitem__(0, torch.inf), "finite"),
        (lambda t: t["encoder.weight.scale"].__setitem__(0, torch.nan), "finite"),
        (lambda t: t["encoder.bias"].__setitem__(0, torch.inf), "finite"),
        (lambda t: t["encoder.weight.scale"].__setitem__(0, 1e38), "scale"),
        (lambda t: t["encoder.weight.scale"][:1].neg_(), "scale"),
        (lambda t: t["encoder.weight.scale"].fill_(payload.LARGEST_SCALE), "norm"),
        (lambda t: t["encoder.weight.scale"].mul_(100), "norm"),
        (lambda t: t["encoder.weight.scale"].zero_(), "norm"),
        (lambda t: t["encoder.weight"].zero_(), "norm"),
        (lambda t: [x.neg_() for n, x in t.items() if not n.endswith(".scale")], "cosine"),
        (lambda t: t["encoder.bias"].add_(50), "distance"),
    ],
    ids=[
        "scale inf", "scale nan", "bias inf", "scale 1e38", "scale negative", "largest scale", "times 100",
        "scale 0", "codes 0", "sign flip", "bias of 50",
    ],
)  # fmt: skip
def test_poisoned_8_bit_weights_are_refused(offered_8_bits, network, change, rule):
    """A scale is as powerful as a whole channel of weights."""
    tensors = load_file(offered_8_bits)
    weights.read(offered_8_bits, network, "int8")
    change(tensors)
    save_file(tensors, offered_8_bits)

    assert refused(offered_8_bits, network, "int8") == rule


def test_a_huge_scale_is_refused_even_where_it_multiplies_zeros(offered_8_bits, network):
    """Nothing about a file is left to chance: the rule is about the scale alone."""
    tensors = load_file(offered_8_bits)
    tensors["encoder.weight"][0] = 0
    tensors["encoder.weight.scale"][0] = 1e38
    save_file(tensors, offered_8_bits)

    with pytest.raises(
        WeightsError, match=r"a scale in encoder.weight.scale is 1e\+38, but must be within 0"
    ):
        weights.read(offered_8_bits, network, "int8")


def test_wrong_shapes_in_8_bits_are_refused(offered_8_bits, network):
    """As many bytes, other shapes; and float16's file is not int8's."""
    blob = offered_8_bits.read_bytes()
    offered_8_bits.write_bytes(blob.replace(b"[4,1,3,3,3]", b"[4,3,3,1,3]", 1))

    assert refused(offered_8_bits, network, "int8") == "header"
    assert refused(offered_8_bits, network, "float16") == "size"


def test_counters_travel_unchanged(tmp_path):
    """A batch norm's number of batches is no weight: 2^24 + 1 is not a float32."""
    ours, other = nn.BatchNorm3d(2), nn.BatchNorm3d(2)
    ours.num_batches_tracked.fill_(2**24 + 1)

    for dtype in payload.DTYPES:
        weights.write(ours, tmp_path / "w.safetensors", dtype)
        tensors, _ = weights.read(tmp_path / "w.safetensors", ours, dtype)
        weights.put(tensors, other)
        assert int(other.num_batches_tracked) == 2**24 + 1


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


def test_likeness_is_that_of_all_numbers_in_one_vector(offered, network, monkeypatch):
    """Compared in chunks of seven, the last one shorter, as by the formula on the whole."""
    monkeypatch.setattr(weights, "CHUNK", 7)

    tensors, likeness = weights.read(offered, network, "float16")

    ours = weights.named_tensors(network)
    a, b = (torch.cat([side[name].flatten() for name in ours]).double() for side in (tensors, ours))
    assert likeness.distance == pytest.approx(float((a - b).norm() / b.norm()))
    assert likeness.cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)))


def test_a_network_of_zeros_resembles_nobody(tmp_path):
    """No direction, no norm: refused, not divided by."""
    ours = nn.Linear(2, 2)
    weights.write(ours, tmp_path / "w.safetensors")
    for parameter in ours.parameters():
        nn.init.zeros_(parameter)

    assert refused(tmp_path / "w.safetensors", ours) == "cosine"


def test_header_says_what_the_format_says(offered):
    """A safetensors file is a length, that many bytes of JSON, then the tensors; no metadata of ours."""
    blob = offered.read_bytes()
    header = json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])

    assert "__metadata__" not in header
    assert {entry["dtype"] for entry in header.values()} == {"F16"}


def test_a_negative_variance_is_refused(tmp_path):
    """Batch normalisation would take its root; no norm of the tensor tells."""
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))
    path = tmp_path / "peer.safetensors"
    network[1].running_var[0] = -1.0
    weights.write(network, path)
    network[1].running_var[0] = 1.0

    with pytest.raises(WeightsError, match=r"least variance in 1.running_var is -1") as error:
        weights.read(path, network, "float16")
    assert error.value.rule == "variance"
