"""nnU-Net's checkpoint with keys of our own, written once and put in place at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from peer_sync.storage import becoming


def write(path: Path, save: Callable[[str], None], ours: Mapping[str, Any]) -> None:
    """Write what nnU-Net would, and more; a file of this name stays whole until the new one is.

    Args:
        path: of the checkpoint.
        save: nnU-Net's ``save_checkpoint``; what it gives to `torch.save` is caught on its way, so that the
            disk has one file to write, not two.
        ours: further keys, or other values for nnU-Net's.

    Raises:
        RuntimeError: torch's, if the disk is full or broken.
    """
    caught: list[dict[str, Any]] = []
    with mock.patch.object(torch, "save", lambda checkpoint, *_, **__: caught.append(checkpoint)):
        save(str(path))
    (checkpoint,) = caught
    part = Path(f"{path}.part")
    with becoming(path, part):
        torch.save({**checkpoint, **ours}, part)
