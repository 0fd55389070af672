"""Two real processes of the stock command, two embedded SFTP servers, one kill -9."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from courier_kit import build_sites
from nnunet_kit import CONFIGURATION, plans_of

from nnunet_gml.installed import command, trainers_folder
from nnunet_gml.plans import plans_digest
from peer_sync.site import SITE_VARIABLE

EPOCHS = 16
VARIANT = f"""
import torch
from nnunet_gml.trainer import GossipTrainer


class nnUNetTrainerGML_short(GossipTrainer):
    warmup_epochs = 2
    epochs_per_round = 2
    mutual_epochs = 1
    gate_batches = 1

    def initialize(self):
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = {EPOCHS}, 3, 1
        super().initialize()
"""


class TrainingSite:
    """One site's folders, environment and training process."""

    def __init__(self, name: str, folder: Path, data: Path) -> None:
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

    def start(self, *options: str) -> None:
        words = ["901", CONFIGURATION, "0", "-tr", "nnUNetTrainerGML_short", "-device", "cpu", *options]
        with self.out.open("a") as log:
            self.process = subprocess.Popen(
                [command("nnUNetv2_train"), *words],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self.out.read_text()

    def wait_for(self, words: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None, self.said()[-3000:]
            assert time.monotonic() < end, f"no {words!r} in:\n{self.said()[-3000:]}"
            time.sleep(0.2)

    def ledger(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture
def pair(phantom_data, tmp_path):
    """North and south with servers on loopback, the same plans, and the short trainer."""
    data = phantom_data()
    sites = build_sites(tmp_path, served=True)
    federation = tmp_path / "federation.toml"
    digest = plans_digest(*plans_of(data), CONFIGURATION)
    federation.write_text(federation.read_text().replace(sites["north"].federation.plans_digest, digest))
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "nnUNetTrainerGML_short.py").write_text(VARIANT)
    pair = [TrainingSite(name, tmp_path, data) for name in ("north", "south")]
    yield pair
    for site in pair:
        if site.process.poll() is None:
            site.process.kill()


@pytest.mark.timeout(500)
def test_a_killed_site_stops_nobody_and_comes_back(pair):
    """Both exchange over SFTP; south is killed; north finishes; south continues with --c and finishes."""
    north, south = pair
    north.start()
    south.start()
    for site in pair:
        site.wait_for("weights of site")

    south.process.send_signal(signal.SIGKILL)
    south.process.wait()
    offered = max(line["sequence"] for line in south.ledger() if line["event"] == "offer")
    assert north.process.wait(timeout=200) == 0, north.said()[-3000:]
    south.start("--c")
    assert south.process.wait(timeout=200) == 0, south.said()[-3000:]

    for site in pair:
        assert list(site.results.rglob("checkpoint_final.pth")), site.said()[-3000:]
        accepted = [line for line in site.ledger() if line["verdict"] == "accepted"]
        assert accepted and all(line["bytes"] > 10_000 for line in accepted)
    sequences = [line["sequence"] for line in south.ledger() if line["event"] == "offer"]
    assert sequences == sorted(set(sequences)) and sequences[-1] > offered
    assert f"Epoch {EPOCHS - 1}" in south.said()
    assert "training goes on without a peer" in north.said() + south.said()
