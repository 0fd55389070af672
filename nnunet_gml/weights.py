"""A network's weights as a safetensors file, and every check on a file that came from somebody else.

Only tensors travel: no optimiser, no log, no plans, nothing that could be unpickled. What arrives is
compared byte by byte with the header that our own network would have written, before any parser sees it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from nnunet_gml import channels, payload
from nnunet_gml.channels import Order
from nnunet_gml.payload import DTYPES
from nnunet_gml.tensors import all_finite
from nnunet_gml.tensors import named_tensors as named_tensors
from nnunet_gml.tensors import unwrap as unwrap

NORM_RATIO = (0.2, 5.0)
"""Norm of a peer's tensor of two or more dimensions, relative to ours."""
MOST_DISTANCE = 2.0
LEAST_COSINE = -0.1
"""Bounds of `Likeness`: wide, because honest sites drift apart in a long training, and are measured in
every meeting so that they can be narrowed."""
VARIANCE = "running_var"
"""End of the names of batch norms' variances."""
CHUNK = 2**18
"""Numbers that are compared at once: copies in float64 that stay in the processor's cache."""


class WeightsError(ValueError):
    """A peer's weights break a rule; ``rule`` is its short name, ``hint`` what it may mean."""

    def __init__(self, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.hint = hint


class Likeness(NamedTuple):
    """A peer's weights against ours, all tensors as one long vector."""

    distance: float
    """Norm of the difference, relative to the norm of ours."""
    cosine: float


def schema_digest(network: nn.Module) -> str:
    """SHA-256 (hex) of the names and shapes of a network's tensors: equal for networks of equal plans."""
    schema = [[name, list(tensor.shape)] for name, tensor in named_tensors(network).items()]
    return hashlib.sha256(json.dumps(schema, separators=(",", ":")).encode()).hexdigest()


def payload_bytes(network: nn.Module) -> dict[str, int]:
    """Size of the file that `write` makes of this network, for each type."""
    tensors = named_tensors(network)
    return {dtype: payload.layout(tensors, dtype).file_bytes for dtype in DTYPES}


def write(
    network: nn.Module | Mapping[str, Tensor],
    path: Path,
    dtype: str = "float16",
    order: Order | None = None,
    has_background: bool = True,
) -> str:
    """Write a network's weights to ``path`` as safetensors.

    Args:
        network: ours, or copies of its `named_tensors`.
        path: the file; replaced if it exists.
        dtype: one of `nnunet_gml.payload.DTYPES`.
        order: where the federation's classes are among ours, from `channels.class_order`; None where all
            sites number them alike.
        has_background: output channel 0 is the background; False with regions.

    Returns:
        The type that was written: float32 where a weight is too large for ``dtype``.

    Raises:
        WeightsError: rule ``dtype``; rule ``finite``, when our own weights are not finite.
        NotImplementedError: an order is given, and the network's output channels cannot be found.
        OSError: the disk is full or broken.
    """
    _check_type(dtype)
    tensors = named_tensors(network) if isinstance(network, nn.Module) else network
    if order is not None:
        tensors = channels.to_federation(tensors, channels.output_layers(tensors), order, has_background)
    wire = payload.encode(tensors, dtype)
    if not all_finite(wire):
        if dtype != "float32":
            return write(tensors, path, "float32")
        raise WeightsError("finite", "our own weights hold NaN or infinity", "training has diverged here")
    path.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in wire.items()}))
    return dtype


def read(
    path: Path, like: nn.Module, dtype: str, order: Order | None = None, has_background: bool = True
) -> tuple[dict[str, Tensor], Likeness]:
    """Read weights that a peer has sent, on the CPU, after every check that needs only our own network.

    Args:
        path: the file, of any content.
        like: our network of the same plans.
        dtype: the type that the signed manifest states.
        order: as in `write`; the file is in the federation's order.
        has_background: as in `write`.

    Returns:
        Tensors with the names and shapes of `named_tensors` of ``like``, floating-point ones as float32,
        output channels in our order, and how like ours they are.

    Raises:
        WeightsError: with the rule ``dtype``, ``size``, ``header``, ``finite``, ``scale``, ``norm``,
            ``variance``, ``distance`` or ``cosine``.
        NotImplementedError: as in `write`.
    """
    _check_type(dtype)
    ours = named_tensors(like)
    _check_header(path, payload.layout(ours, dtype))
    wire = load(path.read_bytes())
    if not all_finite(wire):
        bad = next(name for name, tensor in wire.items() if not torch.isfinite(tensor).all())
        raise WeightsError("finite", f"tensor {bad} holds NaN or infinity, but all must be finite")
    if dtype == "int8":
        _check_scales(wire, ours)
    tensors = payload.decode(wire, ours)
    if order is not None:
        tensors = channels.from_federation(tensors, channels.output_layers(ours), order, has_background)
    return tensors, _check_plausible(tensors, ours)


def put(tensors: dict[str, Tensor], network: nn.Module) -> None:
    """Copy tensors, as `read` returns them, into a network in place."""
    with torch.no_grad():
        for name, tensor in named_tensors(network).items():
            tensor.copy_(tensors[name])


def _check_type(dtype: str) -> None:
    if dtype not in DTYPES:
        raise WeightsError("dtype", f"dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}")


def _check_header(path: Path, expected: payload.Layout) -> None:
    """Size and header must be those of our own network; no parser has seen the file yet."""
    found_bytes = path.stat().st_size
    if found_bytes != expected.file_bytes:
        raise WeightsError(
            "size",
            f"the weights are {found_bytes} bytes, but our own network's are {expected.file_bytes}",
            "the file is cut short, or the peer's network has another shape",
        )
    with path.open("rb") as file:
        if file.read(len(expected.header)) != expected.header:
            raise WeightsError(
                "header",
                "the tensors' names, shapes or types are not those of our own network",
                "do both sites train the same configuration of the same plans?",
            )


def _check_scales(wire: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    """No scale may be negative, or so large that a code times it is no float32."""
    for name in (name + payload.SCALE for name in ours):
        if name in wire:
            low, high = (float(edge) for edge in wire[name].aminmax())
            _check_bounds("scale", f"a scale in {name}", low, 0.0, payload.LARGEST_SCALE)
            _check_bounds("scale", f"a scale in {name}", high, 0.0, payload.LARGEST_SCALE)


def _check_plausible(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> Likeness:
    """Norm of each tensor, distance and direction of all: a network trained like ours cannot be anywhere."""
    total = torch.zeros(4, dtype=torch.float64)
    for name, own in ours.items():
        products = _products(theirs[name], own.detach().cpu())
        if own.ndim >= 2 and products[1] > 0:
            ratio = float((products[0] / products[1]).sqrt())
            _check_bounds("norm", f"the norm of tensor {name} relative to ours", ratio, *NORM_RATIO)
        if name.endswith(VARIANCE):
            _check_bounds(
                "variance", f"the least variance in {name}", float(theirs[name].min()), 0.0, math.inf
            )
        total += products
    their_square, our_square, product, gap_square = total
    distance = float((gap_square / our_square).sqrt())
    cosine = float(product / (their_square.sqrt() * our_square.sqrt()))
    _check_bounds("cosine", "the cosine with our weights", cosine, LEAST_COSINE, 1.0 + 1e-6)
    _check_bounds("distance", "the relative distance to our weights", distance, 0.0, MOST_DISTANCE)
    return Likeness(distance, cosine)


def _products(theirs: Tensor, ours: Tensor) -> Tensor:
    """Of two tensors as vectors a and b: a·a, b·b, a·b and (a-b)·(a-b), float64, one chunk at a time."""
    total = torch.zeros(4, dtype=torch.float64)
    theirs, ours = theirs.flatten(), ours.flatten()
    for start in range(0, ours.numel(), CHUNK):
        a, b = (side[start : start + CHUNK].double() for side in (theirs, ours))
        gap = a - b
        total += torch.stack([a @ a, b @ b, a @ b, gap @ gap])
    return total


def _check_bounds(rule: str, what: str, found: float, low: float, high: float) -> None:
    if not low <= found <= high:
        raise WeightsError(rule, f"{what} is {found:.3g}, but must be within {low:.3g} and {high:.3g}")
