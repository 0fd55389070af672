"""Mixed and full precision, for any device."""

from contextlib import AbstractContextManager, nullcontext

import torch


def mixed(device_type: str) -> AbstractContextManager[object]:
    """nnU-Net's mixed precision: on CUDA, and nothing elsewhere."""
    return torch.autocast("cuda") if device_type == "cuda" else nullcontext()


def full(device_type: str) -> AbstractContextManager[object]:
    """Full precision inside a mixed-precision step; a device without autocast needs nothing."""
    if torch.amp.autocast_mode.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
