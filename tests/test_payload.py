"""The tensors in a weights file: 8-bit quantisation, and a header that is known before the file is there."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from nnunet_gml import payload
from nnunet_gml.weights import named_tensors

FLOAT32 = torch.finfo(torch.float32)


class Mixed(nn.Module):
    """Shapes and types that a network may have beside convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.rand(2, 3))
        self.halves = nn.Parameter(torch.rand(3, 2).half())
        self.doubles = nn.Parameter(torch.rand(3, 2, dtype=torch.float64))
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("mask", torch.tensor([[True, False]]))
        self.register_buffer("table", torch.arange(12, dtype=torch.int16).view(3, 4))
        self.register_buffer("empty", torch.zeros(2, 0))
        self.register_buffer("größe", torch.arange(3, dtype=torch.int32))


def unet() -> nn.Module:
    """nnU-Net's architecture, small."""
    return PlainConvUNet(
        1, 3, [4, 8, 8], nn.Conv3d, 3, [1, 2, 2], 2, 3, 2,
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, deep_supervision=True,
    )  # fmt: skip


def header_of(file: bytes) -> bytes:
    return file[: 8 + int.from_bytes(file[:8], "little")]


@pytest.mark.parametrize("dtype", payload.DTYPES)
@pytest.mark.parametrize("build", [unet, Mixed], ids=["nnU-Net", "mixed"])
def test_header_and_size_are_what_safetensors_writes(build, dtype):
    """Computed from names, shapes and types alone; else no file of a peer would be accepted."""
    tensors = named_tensors(build())

    header, file_bytes = payload.layout(tensors, dtype)

    file = save({name: tensor.contiguous() for name, tensor in payload.encode(tensors, dtype).items()})
    assert header == header_of(file)
    assert file_bytes == len(file)


TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(list(payload._CODES))),
    min_size=1,
    max_size=6,
)


@given(TENSORS, st.sampled_from(list(payload.DTYPES)))
def test_header_of_any_names_shapes_and_types(drawn, dtype):
    """Order, offsets, escapes and padding are those of safetensors."""
    tensors = {name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in drawn.items()}
    file = save(payload.encode(tensors, dtype))

    assert payload.layout(tensors, dtype) == (header_of(file), len(file))


def test_codes_of_known_weights():
    """By hand: the largest is 1.27, so the scale is 0.01; -0.504 is 50.4 scales, 0.006 is 0.6 of one."""
    weights = torch.tensor([[1.27, -0.504, 0.006, 0.004], [0.0, 254.0, 1.1, -254.0]])

    codes, scale = payload.quantise(weights)

    assert codes.tolist() == [[127, -50, 1, 0], [0, 127, 1, -127]]
    assert scale.tolist() == pytest.approx([0.01, 2.0])


@given(
    st.lists(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4), min_size=1, max_size=4
    )
)
def test_no_number_moves_by_more_than_half_a_scale(rows):
    """Any magnitudes, one huge number in a channel included; what is below 1.5e-36 becomes zero."""
    weights = torch.tensor(rows).view(-1, 2, 2)

    codes, scale = payload.quantise(weights)
    error = (payload.dequantise(codes, scale) - weights).abs().amax((1, 2)).double()

    assert codes.abs().max() <= 127
    assert (error <= 0.5001 * scale.double() + 127 * FLOAT32.tiny).all()


@pytest.mark.parametrize("number", [0.0, -0.0, 1e-45, FLOAT32.tiny])
def test_a_channel_of_almost_nothing_is_zero(number):
    """Zeros and denormal numbers: no division by zero, no NaN."""
    codes, scale = payload.quantise(torch.full((2, 5), number))

    assert not codes.any()
    assert scale.tolist() == [0.0, 0.0]


def test_channels_do_not_share_a_scale():
    """A channel beside a huge one keeps its precision; inside a channel small numbers give way."""
    weights = torch.tensor([[1000.0, 1.0], [0.001, 0.0005]])

    restored = payload.dequantise(*payload.quantise(weights))

    assert restored[0].tolist() == pytest.approx([1000.0, 0.0])
    assert restored[1].tolist() == pytest.approx([0.001, 0.0005], rel=0.01)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf, FLOAT32.max, -1.7e38])
def test_what_8_bits_cannot_hold_shows_in_the_scale(number):
    """Not finite in that channel only: the sender's check sees it. 1.7e38 is above 127 times 2^120."""
    _, scale = payload.quantise(torch.tensor([[1.0, number], [1.0, 2.0]]))

    assert torch.isfinite(scale).tolist() == [False, True]


def test_the_largest_scale_never_overflows():
    """-128 is no code of ours, but of a stranger's; even that times 2^120 is a float32."""
    codes = torch.tensor([[-128, 127]], dtype=torch.int8)

    assert torch.isfinite(payload.dequantise(codes, torch.tensor([payload.LARGEST_SCALE]))).all()


@pytest.mark.parametrize("dtype", payload.DTYPES)
def test_every_tensor_comes_back_under_its_name(dtype):
    """Floats close and as float32; integers, booleans and shapes unchanged."""
    torch.manual_seed(0)
    tensors = named_tensors(Mixed())

    decoded = payload.decode(payload.encode(tensors, dtype), tensors)

    assert list(decoded) == list(tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            assert decoded[name].dtype == torch.float32
            assert torch.allclose(decoded[name], tensor.float(), atol=1 / 250)
        else:
            assert decoded[name].dtype == tensor.dtype and torch.equal(decoded[name], tensor)
        assert decoded[name].shape == tensor.shape


def test_biases_and_norms_are_exact_in_8_bits():
    """One-dimensional tensors are a thousandth of the bytes, and stay float32."""
    tensors = {"weight": torch.rand(4, 3), "bias": torch.rand(4) * 1e9}

    wire = payload.encode(tensors, "int8")

    assert {name: tensor.dtype for name, tensor in wire.items()} == {
        "weight": torch.int8,
        "weight.scale": torch.float32,
        "bias": torch.float32,
    }
    assert torch.equal(payload.decode(wire, tensors)["bias"], tensors["bias"])
