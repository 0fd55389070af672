"""The scripts of examples/, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_gml.simulation.loopback import free_ports

EXAMPLES = Path(__file__).parents[1] / "examples"
BIN = Path(sys.executable).parent


@dataclass
class Example:
    """One script and the folder for its sites."""

    name: str
    folder: Path
    said: str = ""
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def run(self, seconds: float = 1700) -> None:
        """To its end, which must be a good one."""
        self.process = subprocess.Popen(
            ["bash", EXAMPLES / self.name / "run.sh", self.folder],
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PORT": str(free_ports(3)[0])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, self.said[-6000:]

    def leave(self) -> None:
        """End whatever a failed script has left."""
        end_group(self.process)

    def met(self, site: str) -> list[dict[str, Any]]:
        """What a site wrote down about the weights that came, in their order."""
        (rounds,) = (self.folder / site / "nnUNet_results").glob("Dataset*/*/fold_0/gml_rounds.jsonl")
        lines = map(json.loads, rounds.read_text().splitlines())
        return [line for line in lines if line["event"] == "met"]

    def has_ended_well(self, site: str) -> bool:
        """Whether nnU-Net has written its last checkpoint and its validation."""
        folds = list((self.folder / site / "nnUNet_results").glob("Dataset*/*/fold_0"))
        names = ("checkpoint_final.pth", "validation/summary.json")
        return len(folds) == 1 and all((folds[0] / name).is_file() for name in names)


def end_group(process: subprocess.Popen[str] | None) -> None:
    """End a process of `start_new_session` with all that it has begun."""
    if process is not None and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
