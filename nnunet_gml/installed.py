"""Where this installation keeps the trainers that nnU-Net looks up, and nnU-Net's own commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from peer_sync.errors import ConfigError


def trainers_folder() -> Path:
    """The folder for nnU-Net's variable ``nnUNet_extTrainer``: installed, or in the repository.

    Raises:
        ConfigError: the trainers are neither beside the package nor in the repository.
    """
    beside = Path(__file__).resolve().parents[1]
    for name in ("nnunet_gml_trainers", "trainers"):
        if (beside / name / "nnUNetTrainerGML.py").is_file():
            return beside / name
    raise ConfigError(f"no folder with the GML trainers in {beside}", "install nnunet-gml again")


def command(name: str) -> str:
    """Full path of one of nnU-Net's commands, from the running Python's own environment first.

    Raises:
        ConfigError: there is no such command.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"the command {name} is missing", "install nnunetv2 in this Python environment")
    return found
