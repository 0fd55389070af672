"""The page docs/how-to/federation.md, followed by three sites with a network address each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from namespaces_kit import CAN_MAKE_NAMESPACES, Machine, machines

from nnunet_gml.installed import command, trainers_folder
from nnunet_gml.phantom import write_dataset
from peer_sync.site import SITE_VARIABLE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not CAN_MAKE_NAMESPACES, reason="only root can make network namespaces"),
]

NAMES = ("north", "east", "south")
PORT = 2222
TRAINER = "nnUNetTrainerGML_short"
VARIANT = f"""
import torch
from nnunet_gml.learning import GossipTrainer


class {TRAINER}(GossipTrainer):
    warmup_epochs = 1
    epochs_per_round = 1
    mutual_epochs = 1
    gate_batches = 1

    def initialize(self):
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 9, 3, 1
        super().initialize()
"""


@dataclass
class Hospital:
    """One site: a machine, a home folder, and a person who types what the page says."""

    machine: Machine
    home: Path
    dataset: int
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def site_toml(self) -> str:
        return str(self.home / "gml" / "site.toml")

    @property
    def environment(self) -> dict[str, str]:
        variants = self.home / "variants"
        variants.mkdir(exist_ok=True)
        (variants / f"{TRAINER}.py").write_text(VARIANT)
        return {
            **os.environ,
            **{
                name: str(self.home / name)
                for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
            },
            "nnUNet_extTrainer": os.pathsep.join([str(trainers_folder()), str(variants)]),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            SITE_VARIABLE: self.site_toml,
        }

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Begin a command; the first word may be one of nnU-Net's."""
        program, *rest = map(str, words)
        found = (
            [sys.executable, "-m", "nnunet_gml.cli"] if program == "nnunet-gml" else [str(command(program))]
        )
        process = subprocess.Popen(
            self.machine.inside(*found, *rest),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *words: object) -> str:
        """What a command said; it must end well."""
        return finished(self.start(*words))

    def leave(self) -> None:
        """End what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said[-6000:]
    return said


def at_all(hospitals: list[Hospital], *words: str) -> list[str]:
    """The same command at every site at once; DATASET and SITE_TOML stand for each site's own."""
    started = []
    for site in hospitals:
        own = {"DATASET": str(site.dataset), "SITE_TOML": site.site_toml}
        started.append(site.start(*(own.get(word, word) for word in words)))
    return [finished(process) for process in started]


@pytest.fixture
def hospitals(tmp_path):
    """Three machines with raw data, and nothing else."""
    with machines(NAMES) as found:
        sites = []
        for number, machine in enumerate(found):
            home = tmp_path / machine.name
            write_dataset(home / "nnUNet_raw", 901 + number, machine.name, 3, training_cases=6, test_cases=1)
            sites.append(Hospital(machine, home, 901 + number))
        yield sites
        for site in sites:
            site.leave()


def test_three_sites_come_from_nothing_to_three_exchanged_rounds(hospitals, tmp_path):
    """Keys, cards, one file, one plan, check, training: each command as the page has it."""
    founder = hospitals[0]
    for site in hospitals:
        address = f"sftp://{site.machine.address}:{PORT}"
        site.run("nnunet-gml", "init", site.home / "gml", "--site", site.machine.name, "--address", address)
    cards = [site.home / "gml" / f"{site.machine.name}.card" for site in hospitals]
    founded = founder.home / "gml" / "federation.toml"
    founder.run("nnunet-gml", "federation", "new", "head-neck", *cards, "--seed", "7", "--out", founded)
    for site in hospitals[1:]:
        (site.home / "gml" / "federation.toml").write_bytes(founded.read_bytes())

    for site in hospitals:
        site.start("nnunet-gml", "serve", site.site_toml)

    at_all(hospitals, "nnunet-gml", "plans", "pool", "SITE_TOML", "DATASET", "--wait", "10m")
    at_all(
        hospitals,
        "nnUNetv2_preprocess",
        "-d",
        "DATASET",
        "-plans_name",
        "nnUNetPlans",
        "-c",
        "3d_fullres",
        "-np",
        "1",
    )
    at_all(hospitals, "nnunet-gml", "check", "DATASET", "3d_fullres", "0", "--no-steps")
    at_all(hospitals, "nnUNetv2_train", "DATASET", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu")

    for site in hospitals:
        (rounds,) = (site.home / "nnUNet_results").glob("Dataset*/*/fold_0/gml_rounds.jsonl")
        met = [line for line in map(json.loads, rounds.read_text().splitlines()) if line["event"] == "met"]
        assert len({line["round"] for line in met}) >= 3
        assert {line["peer"] for line in met} <= set(NAMES) - {site.machine.name}
