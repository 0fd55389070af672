"""Trainings in this process, on a tiny phantom: short, on the CPU, with a peer's offer lying ready."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from nnunet_kit import (
    build_trainer,
    offer_network,
    seed_everything,
    sites_for,
    use_folders,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_gml import weights
from nnunet_gml.gate import randomness_of
from peer_sync.site import SITE_VARIABLE, load_site


class StockTrainer(nnUNetTrainer):
    """Stock nnU-Net from the initial weights that the federation's seed gives."""

    def initialize(self) -> None:
        with randomness_of(7, "initial weights"):
            super().initialize()


class Training:
    """Trains a class for a few steps; with a peer's offer lying ready, if a change to it is given.

    ``federation`` rewrites federation.toml, given its text and the folder of the data.
    """

    def __init__(self, phantom_data: Callable, tmp_path: Path, monkeypatch) -> None:
        self.phantom_data, self.tmp_path, self.monkeypatch = phantom_data, tmp_path, monkeypatch

    def __call__(self, cls, kind="labels", peer=None, epochs=3, site_lines="", federation=None):
        data = self.phantom_data(kind)
        folder = self.tmp_path / cls.__name__
        folder.mkdir()
        use_folders(data, self.monkeypatch, results=folder / "results")
        self.monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        sites = sites_for(folder, data)
        if federation is not None:
            path = sites["north"].federation.path
            path.write_text(federation(path.read_text(), data))
            sites = {name: load_site(site.path) for name, site in sites.items()}
        own = sites["north"].path
        own.write_text(own.read_text() + site_lines)
        self.monkeypatch.setenv(SITE_VARIABLE, str(own))
        trainer = build_trainer(cls, data, epochs)
        trainer.initialize()
        if peer is not None:
            network = build_trainer(StockTrainer, data)
            network.initialize()
            peer(network.network)
            offer_network(sites["south"], network.network, getattr(trainer, "classes", ()))
        seed_everything()
        trainer.run_training()
        return trainer


def a_little_further(network: torch.nn.Module) -> None:
    """What a peer may send: our initial weights, moved by 1 %."""
    torch.manual_seed(5)
    for tensor in weights.named_tensors(network).values():
        tensor.add_(0.01 * tensor.abs().mean() * torch.randn_like(tensor))


def rounds(trainer) -> list[dict]:
    """The lines of gml_rounds.jsonl."""
    path = Path(trainer.output_folder) / "gml_rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def log_of(trainer) -> str:
    """The training log."""
    return Path(trainer.log_file).read_text()


def ledger(trainer) -> list[dict]:
    """The lines of the site's ledger, of offers first: a thread of its own publishes them."""
    path = trainer.exchange.site.folder / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["event"] != "offer")


def copy_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now, by name."""
    return {name: tensor.clone() for name, tensor in weights.named_tensors(network).items()}


def same_weights(a, b) -> bool:
    """Whether two trainers' networks are equal bit for bit."""
    one, other = (weights.named_tensors(t.network) for t in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)
