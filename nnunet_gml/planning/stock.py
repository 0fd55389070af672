"""nnU-Net's own commands, run as they are."""

from __future__ import annotations

import re
import subprocess
from contextlib import nullcontext
from pathlib import Path

from nnunet_gml.installed import command
from peer_sync.errors import ConfigError

DATASET = re.compile(r"Dataset([0-9]{3})_.+")


def run_stock(name: str, *arguments: str, log: Path | None = None) -> None:
    """Run one of nnU-Net's commands and wait for its end.

    Args:
        name: such as ``nnUNetv2_preprocess``.
        arguments: its words.
        log: takes what it prints, instead of the terminal.

    Raises:
        ConfigError: it is missing, or has failed.
    """
    with nullcontext() if log is None else log.open("wb") as file:
        done = subprocess.run(
            [command(name), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file and subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        place = "above" if log is None else f"in {log}"
        raise ConfigError(
            f"{name} has ended with exit code {done.returncode}", hint=f"what it wrote is {place}"
        )


def dataset_id(dataset: str) -> str:
    """The number that nnU-Net's commands take, of a name ``DatasetXXX_Name``. Raises `ConfigError`."""
    match = DATASET.fullmatch(dataset)
    if match is None:
        raise ConfigError(
            f"the dataset is called {dataset!r}, expected DatasetXXX_Name", hint="rename it in nnUNet_raw"
        )
    return str(int(match[1]))
