"""Trainings: two of the stock command, and a peer whose server fails them."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from courier_kit import build_sites
from impostor_kit import with_another_host_key
from proxy_kit import move_behind
from training_kit import TrainingSite, agree_on_plans

from peer_sync.server.process import ServerProcess
from peer_sync.site import load_site

EPOCHS = 24
VARIANT = f"""
import time
from dataclasses import replace

import torch
from nnunet_gml.learning import GossipTrainer
from peer_sync.address import Patience
from peer_sync.transport import sftp

HASTE = replace(Patience(), connect_seconds=2, login_seconds=2, deadline_seconds=3, rate_seconds=2)
sftp.Patience = lambda: HASTE


class nnUNetTrainerGML_short(GossipTrainer):
    warmup_epochs = 2
    epochs_per_round = 2
    mutual_epochs = 1
    gate_batches = 1

    def initialize(self):
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = {EPOCHS}, 2, 1
        super().initialize()

    def on_train_epoch_start(self):
        time.sleep(0.5)
        super().on_train_epoch_start()
"""


@pytest.fixture
def trainings(phantom_data, tmp_path):
    """North and south, ready to train, with shorter limits of time and epochs of half a second at least."""
    build_sites(tmp_path, served=True)
    agree_on_plans(tmp_path, phantom_data())
    (tmp_path / "variants" / "nnUNetTrainerGML_short.py").write_text(VARIANT)
    made = [TrainingSite(name, tmp_path, phantom_data()) for name in ("north", "south")]
    yield made
    for training in made:
        training.end()


@pytest.fixture
def way(tmp_path, trainings):
    """The proxy in front of south's server."""
    proxy = move_behind(load_site(tmp_path / "south.toml"))
    yield proxy
    proxy.close()


@pytest.fixture
def south_server(tmp_path, way):
    """South's server, in a process that is not its training's."""
    server = ServerProcess(load_site(tmp_path / "south.toml"))
    yield server
    os.kill(server.pid, signal.SIGCONT)
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trainings_go_on(tmp_path, trainings, way, south_server):
    """Two trainings have met; then one's server is stopped (SIGSTOP), and later shows another host key.

    Both trainings go on to their last epoch with exit code 0 and a stock checkpoint; the failure and
    the refusal are in the log.
    """
    north, south = trainings
    north.start()
    south.start()
    for training in trainings:
        training.wait_for("weights of site")

    os.kill(south_server.pid, signal.SIGSTOP)
    north.wait_for("rule connection")
    other = with_another_host_key(load_site(tmp_path / "south.toml"))
    impostor = ServerProcess(other)
    way.target = other.listen[1]
    north.wait_for("rule host-key")
    impostor.stop()

    for training in trainings:
        assert training.process.wait(timeout=400) == 0, training.said()[-3000:]
        assert f"Epoch {EPOCHS - 1}" in training.said()
        (final,) = training.results.rglob("checkpoint_final.pth")
        assert torch.load(final, weights_only=False)["trainer_name"] == "nnUNetTrainer"
    assert "training goes on without a peer" in north.said()
    assert "north" not in (other.folder / "server.log").read_text()
