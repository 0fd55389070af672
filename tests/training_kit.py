"""Real processes of the stock command, as two sites would start them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from nnunet_kit import CONFIGURATION, plans_of

from nnunet_gml.installed import command, trainers_folder
from nnunet_gml.planning.plans import plans_digest
from peer_sync.site import SITE_VARIABLE

EPOCHS = 16
VARIANT = f"""
import time
import torch
from nnunet_gml.learning import GossipTrainer


class nnUNetTrainerGML_short(GossipTrainer):
    warmup_epochs = 2
    epochs_per_round = 2
    mutual_epochs = 1
    gate_batches = 1

    def initialize(self):
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = {EPOCHS}, 3, 1
        super().initialize()

    def on_epoch_start(self):
        end, inbox = time.monotonic() + 200, self.own_site.folder / "inbox"
        while self.current_epoch == self.warmup_epochs and time.monotonic() < end:
            if any(inbox.glob("[a-z]*/*/weights.safetensors")):
                break
            time.sleep(0.1)
        super().on_epoch_start()
"""
"""In its first round it waits until a peer has begun its own: sixteen epochs are over soon."""


class TrainingSite:
    """One site's folders, environment and training process."""

    def __init__(self, name: str, folder: Path, data: Path) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.folder, self.out = folder / name, folder / f"{name}.log"
        self.results = folder / f"{name}_results"
        shutil.copytree(data / "nnUNet_preprocessed", folder / f"{name}_preprocessed")
        self.environment = {
            **os.environ,
            "nnUNet_raw": str(data / "nnUNet_raw"),
            "nnUNet_preprocessed": str(folder / f"{name}_preprocessed"),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": os.pathsep.join([str(trainers_folder()), str(folder / "variants")]),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            SITE_VARIABLE: str(folder / f"{name}.toml"),
        }

    def start(self, *options: str, within: tuple[str, ...] = ()) -> None:
        """Start the stock command, within another one such as ``unshare``."""
        words = ["901", CONFIGURATION, "0", "-tr", "nnUNetTrainerGML_short", "-device", "cpu", *options]
        with self.out.open("a") as log:
            self.process = subprocess.Popen(
                [*within, command("nnUNetv2_train"), *words],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        """Kill what still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def said(self) -> str:
        return self.out.read_text()

    def wait_for(self, words: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None, self.said()[-3000:]
            assert time.monotonic() < end, f"no {words!r} in:\n{self.said()[-3000:]}"
            time.sleep(0.2)

    def ledger(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "ledger.jsonl").read_text().splitlines()]


def agree_on_plans(folder: Path, data: Path) -> None:
    """Put the digest of the real plans into federation.toml, and the short trainer beside it."""
    federation = folder / "federation.toml"
    digest = plans_digest(*plans_of(data), CONFIGURATION)
    federation.write_text(
        re.sub('plans_digest = "[0-9a-f]{64}"', f'plans_digest = "{digest}"', federation.read_text())
    )
    (folder / "variants").mkdir()
    (folder / "variants" / "nnUNetTrainerGML_short.py").write_text(VARIANT)
