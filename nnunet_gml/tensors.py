"""A network's own tensors, whatever is wrapped around it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity."""
    floats = (tensor for tensor in tensors.values() if tensor.is_floating_point())
    return all(bool(torch.isfinite(tensor).all()) for tensor in floats)
