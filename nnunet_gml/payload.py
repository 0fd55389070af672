"""What a weights file holds: the tensors of each type of payload, 8-bit quantisation, the exact header.

``float16`` and ``float32`` hold every floating-point tensor in that type. ``int8`` holds each one of two
or more dimensions as 8-bit codes ``NAME`` and one float32 scale per channel ``NAME.scale``, and the others
(biases and norms) as float32: they are less than a hundredth of a network's numbers, so that rounding them
would save next to nothing. Tensors of integers travel as they are.
"""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {"float16": torch.float16, "float32": torch.float32, "int8": torch.float32}
"""Each type of payload, and in which type it holds a floating-point tensor that is not quantised."""

SCALE = ".scale"
"""``NAME.scale`` is no tensor of a network: beside a tensor ``NAME`` there is no module ``NAME``."""
MOST_CODE = 127
LARGEST_SCALE = 2.0**120
"""Every code times such a scale is still a float32."""

_CODES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the types in a header, in the order in which safetensors writes their tensors."""


class Layout(NamedTuple):
    """What is known of a valid file before it is there."""

    header: bytes
    """Its first bytes: length, then JSON, as safetensors writes them."""
    file_bytes: int


def layout(tensors: Mapping[str, Tensor], dtype: str) -> Layout:
    """Header and size of the file of a network with these tensors; no tensor's content is looked at."""
    wire = encode({name: tensor.to("meta") for name, tensor in tensors.items()}, dtype)
    order = list(_CODES)
    entries, end = {}, 0
    for name, tensor in sorted(wire.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, len(header) + end)


def encode(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The tensors of a file, by their names in it, on the device of the network's.

    Not finite where a number of the network is not, or is too large for the type.
    """
    wire = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            wire[name] = tensor.detach()
        elif dtype == "int8" and tensor.ndim >= 2 and tensor.numel():
            wire[name], wire[name + SCALE] = quantise(tensor.detach())
        else:
            wire[name] = tensor.detach().to(DTYPES[dtype])
    return wire


def decode(wire: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A network's tensors from those of a file; floating-point ones as float32.

    Args:
        wire: the file's tensors, as `encode` made them.
        names: of the network's tensors.
    """
    tensors = {}
    for name in names:
        tensor, scale = wire[name], wire.get(name + SCALE)
        if scale is not None:
            tensor = dequantise(tensor, scale)
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    r"""8-bit codes of a tensor, symmetric, with one scale per channel (first dimension).

    .. math:: s_c = \max_i |w_{ci}| / 127, \qquad q_{ci} = \mathrm{round}(w_{ci} / s_c)

    so that no number changes by more than half a scale. A channel of zeros has the scale 0, and so has one
    whose scale would be a denormal number: all of it is below 1.5e-36.

    Args:
        tensor: floating-point, ``(C, ...)`` with at least one number in each channel.

    Returns:
        Codes from -127 to 127, int8, of the tensor's shape; scales, float32, ``(C,)``. The scale is
        infinite or NaN where a number of the channel is, or where it exceeds `LARGEST_SCALE`.
    """
    channels = tensor.float().flatten(1)
    scale = channels.abs().amax(1) / MOST_CODE
    scale = scale.where(~(scale < torch.finfo(torch.float32).tiny), 0.0)
    scale = scale.where(~(scale > LARGEST_SCALE), torch.inf)
    codes = (channels / scale.where(scale > 0, 1.0).unsqueeze(1)).round()
    return codes.to(torch.int8).reshape(tensor.shape), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """The float32 tensor behind codes ``(C, ...)`` and scales ``(C,)``.

    >>> dequantise(torch.tensor([[127, -1], [2, 0]], dtype=torch.int8), torch.tensor([0.5, 2.0]))
    tensor([[63.5000, -0.5000],
            [ 4.0000,  0.0000]])
    """
    return codes.float() * scale.view(-1, *[1] * (codes.ndim - 1))
