"""nnU-Net's checkpoints, read as numbers and text only: nothing in them can run code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peer_sync.errors import ConfigError, quoted

FINAL = "checkpoint_final.pth"
WEIGHTS = "network_weights"
"""nnU-Net's key of the network's state_dict."""
MAX_BYTES = 16 * 2**30
"""A checkpoint of nnU-Net's largest preset has a few GB."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net onto the CPU without executing anything that it may contain.

    Raises:
        ConfigError: it is no checkpoint, is too large, or holds objects other than tensors, numbers and text.
    """
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        if size > MAX_BYTES:
            raise ConfigError(f"{path} has {size} bytes unpacked, but expected at most {MAX_BYTES}")
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}", "check path and rights"
        ) from error
    except ConfigError:
        raise
    except Exception as error:  # a damaged or hostile file makes torch.load raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} is not taken: {quoted(reason)}",
            "expected a checkpoint of nnU-Net, whole, with nothing in it but tensors, numbers and text; "
            "one that holds program code is never loaded",
        ) from error
    if not isinstance(content, dict) or not _is_state(content.get(WEIGHTS)):
        raise ConfigError(
            f"{path} has no {WEIGHTS} of plain numbers",
            "expected a checkpoint that nnUNetv2_train or nnunet-gml wrote",
        )
    return content


def _is_state(weights: object) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and _is_plain(tensor)
        for name, tensor in weights.items()
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    """Neither sparse, nested, quantised or complex, nor without content as on the meta device."""
    is_dense = tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type == "cpu"
    return is_dense and not (tensor.is_quantized or tensor.is_complex())


def _numbers_of_numpy() -> list[Any]:
    """nnU-Net's log keeps some curves as numpy's numbers; these build numbers, and nothing else."""
    kinds = [type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")]
    scalar = np.float64(0).__reduce__()[0]
    old_and_new = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*old_and_new, np.dtype, *kinds]
