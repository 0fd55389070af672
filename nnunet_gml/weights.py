"""A network's weights as a safetensors file, and every check on a file that came from somebody else.

Only tensors travel: no optimiser, no log, no plans, nothing that could be unpickled. What arrives is
compared byte by byte with the header that our own network would have written, before any parser sees it.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

Dtype = Literal["float16", "float32"]
DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}

NORM_RATIO = (0.2, 5.0)
"""Norm of a peer's tensor of two or more dimensions, relative to ours."""
MOST_DISTANCE = 2.0
LEAST_COSINE = -0.1
"""Bounds of `Likeness`: wide, because honest sites drift apart in a long training, and are measured in
every meeting so that they can be narrowed."""


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


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, without DistributedDataParallel and torch.compile around it."""
    inner = getattr(network, "module", None)
    if isinstance(network, nn.parallel.DistributedDataParallel) and isinstance(inner, nn.Module):
        network = inner
    compiled = getattr(network, "_orig_mod", None)
    return compiled if isinstance(compiled, nn.Module) else network


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The network's own tensors, each once.

    nnU-Net's state_dict lists a tensor under up to four names; the first name wins.
    """
    seen: set[tuple[int, torch.Size]] = set()
    tensors = {}
    for name, tensor in unwrap(network).state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in seen:
            seen.add(key)
            tensors[name] = tensor
    return tensors


def schema_digest(network: nn.Module) -> str:
    """SHA-256 (hex) of the names and shapes of a network's tensors: equal for networks of equal plans."""
    schema = [[name, list(tensor.shape)] for name, tensor in named_tensors(network).items()]
    return hashlib.sha256(json.dumps(schema, separators=(",", ":")).encode()).hexdigest()


def payload_bytes(network: nn.Module) -> dict[str, int]:
    """Size of the file that `write` makes of this network, for each type."""
    return {dtype: len(save(_cast(network, dtype))) for dtype in DTYPES}


def write(network: nn.Module, path: Path, dtype: Dtype = "float16") -> Dtype:
    """Write a network's weights to ``path`` as safetensors.

    Returns:
        The type that was written: float32 where a weight is too large for float16.

    Raises:
        WeightsError: rule ``finite``, when our own weights are not finite.
        OSError: the disk is full or broken.
    """
    tensors = _cast(network, dtype)
    if not _all_finite(tensors):
        if dtype == "float16":
            return write(network, path, "float32")
        raise WeightsError("finite", "our own weights hold NaN or infinity", "training has diverged here")
    path.write_bytes(save(tensors))
    return dtype


def read(path: Path, like: nn.Module, dtype: str) -> tuple[dict[str, Tensor], Likeness]:
    """Read weights that a peer has sent, on the CPU, after every check that needs only our own network.

    Args:
        path: the file, of any content.
        like: our network of the same plans.
        dtype: the type that the signed manifest states.

    Returns:
        float32 tensors by name, with the names and shapes of `named_tensors` of ``like``, and how like
        ours they are.

    Raises:
        WeightsError: with the rule ``dtype``, ``size``, ``header``, ``finite``, ``norm``, ``distance`` or
            ``cosine``.
    """
    if dtype not in DTYPES:
        raise WeightsError("dtype", f"dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}")
    expected = save(_cast(like, dtype))
    _check_header(path, expected)
    tensors = {name: tensor.float() for name, tensor in load(path.read_bytes()).items()}
    if not _all_finite(tensors):
        bad = next(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
        raise WeightsError("finite", f"tensor {bad} holds NaN or infinity, but all must be finite")
    return tensors, _check_plausible(tensors, _cast(like, "float32"))


def put(tensors: dict[str, Tensor], network: nn.Module) -> None:
    """Copy tensors, as `read` returns them, into a network in place."""
    with torch.no_grad():
        for name, tensor in named_tensors(network).items():
            tensor.copy_(tensors[name])


def _cast(network: nn.Module, dtype: str) -> dict[str, Tensor]:
    """Contiguous copies on the CPU; floating-point tensors in the payload's type, others as they are."""
    return {
        name: tensor.detach()
        .to("cpu", DTYPES[dtype] if tensor.is_floating_point() else tensor.dtype)
        .contiguous()
        for name, tensor in named_tensors(network).items()
    }


def _all_finite(tensors: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def _check_header(path: Path, expected: bytes) -> None:
    """Size and header must be those of our own network; no parser has seen the file yet."""
    found_bytes = path.stat().st_size
    if found_bytes != len(expected):
        raise WeightsError(
            "size",
            f"the weights are {found_bytes} bytes, but our own network's are {len(expected)}",
            "the file is cut short, or the peer's network has another shape",
        )
    header_bytes = 8 + int.from_bytes(expected[:8], "little")
    with path.open("rb") as file:
        if file.read(header_bytes) != expected[:header_bytes]:
            raise WeightsError(
                "header",
                "the tensors' names, shapes or types are not those of our own network",
                "do both sites train the same configuration of the same plans?",
            )


def _check_plausible(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> Likeness:
    """Norm of each tensor, distance and direction of all: a network trained like ours cannot be anywhere."""
    for name, own in ours.items():
        if own.ndim >= 2 and own.norm() > 0:
            ratio = float(theirs[name].norm() / own.norm())
            _check_bounds("norm", f"the norm of tensor {name} relative to ours", ratio, *NORM_RATIO)
    a, b = (torch.cat([side[name].flatten() for name in ours]).double() for side in (theirs, ours))
    likeness = Likeness(float((a - b).norm() / b.norm()), float(a @ b / (a.norm() * b.norm())))
    _check_bounds("cosine", "the cosine with our weights", likeness.cosine, LEAST_COSINE, 1.0 + 1e-6)
    _check_bounds("distance", "the relative distance to our weights", likeness.distance, 0.0, MOST_DISTANCE)
    return likeness


def _check_bounds(rule: str, what: str, found: float, low: float, high: float) -> None:
    if not low <= found <= high:
        raise WeightsError(rule, f"{what} is {found:.3g}, but must be within {low:.3g} and {high:.3g}")
