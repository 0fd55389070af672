"""Everything that users of the stock command do still works, each through the real command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from nnunet_kit import (
    CONFIGURATION,
    MANY,
    ONLY_REGIONS,
    PLANS,
    folders,
    offer_like_a_peer,
    sites_for,
    use_folders,
)

from nnunet_gml.installed import command, trainers_folder
from peer_sync.site import SITE_VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRAINER = "nnUNetTrainerGML_quick"
VARIANT = f"""
import time
from pathlib import Path
import torch
from nnunet_kit import wait_for_arrival
from nnunet_gml import trust, weights
from nnunet_gml.learning import GossipTrainer

trust.LEAST_DICE = -1.0


class {TRAINER}(GossipTrainer):
    warmup_epochs = 2
    epochs_per_round = 4
    mutual_epochs = 3
    gate_batches = 1
    seconds = 0.0

    def initialize(self):
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 6, 2, 1
        super().initialize()

    def on_epoch_start(self):
        if self.current_epoch == 2 and not self.restored:
            wait_for_arrival(self.exchange)
        time.sleep(self.seconds)
        super().on_epoch_start()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 0:
            torch.save(weights.named_tensors(self.network), Path(self.output_folder) / "initial.pth")


class {TRAINER}_slow({TRAINER}):
    seconds = 1.0
"""


class Command:
    """One site's nnUNetv2_train with a peer's offer in reach."""

    def __init__(self, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.data, self.results = folder, data, folder / "results"
        use_folders(data, monkeypatch, results=self.results)
        variants = folder / "variants"
        variants.mkdir(exist_ok=True)
        (variants / f"{TRAINER}.py").write_text(VARIANT)
        self.environment = {
            **os.environ,
            **folders(data, self.results),
            "nnUNet_extTrainer": os.pathsep.join([str(trainers_folder()), str(variants)]),
            "nnUNet_n_proc_DA": "0",
            "PYTHONPATH": str(Path(__file__).parent),
        }

    def federate(self, configuration: str, plans: str = PLANS) -> None:
        """Sites for this configuration; south has offered."""
        home = self.folder / f"sites-{configuration}"
        home.mkdir()
        self.sites = sites_for(home, self.data, configuration, plans=plans)
        offer_like_a_peer(self.sites["south"], self.data, configuration, plans)
        self.environment[SITE_VARIABLE] = str(self.sites["north"].path)

    def start(self, *words: str, trainer: str = TRAINER) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [command("nnUNetv2_train"), "901", *words, "-tr", trainer, "-device", "cpu"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def prepare(self, name: str, *words: str) -> None:
        """Run another of nnU-Net's commands on the data set; it must end well."""
        done = subprocess.run(
            [command(name), "-d", "901", *words],
            env=self.environment | {"nnUNet_n_proc_DA": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *words: str) -> str:
        """What it said; it must end well."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-4000:]
        return said

    def fold(self, configuration: str, fold: str = "0", trainer: str = TRAINER, plans: str = PLANS) -> Path:
        (base,) = self.results.glob("Dataset*")
        return base / f"{trainer}__{plans}__{configuration}" / f"fold_{fold}"


@pytest.fixture
def stock(phantom_data, tmp_path, monkeypatch):
    """Build a command for a kind of data."""

    def build(kind: str = "labels") -> Command:
        return Command(tmp_path, phantom_data(kind), monkeypatch)

    return build


def rounds(fold: Path) -> list[tuple[str, int, int, str]]:
    """Event, round, epoch and peer of every line."""
    lines = map(json.loads, (fold / "gml_rounds.jsonl").read_text().splitlines())
    return [(line["event"], line["round"], line["epoch"], line["peer"]) for line in lines]


WITH_PEER = [("met", 1, 2, "south"), ("left", 1, 5, "south")]


@pytest.mark.parametrize(
    ("configuration", "kind", "fold"),
    [
        ("2d_small", MANY, "1"),
        ("3d_resenc", MANY, "2"),
        (CONFIGURATION, "regions", "3"),
        (CONFIGURATION, ONLY_REGIONS, "0"),
        (CONFIGURATION, "ignore", "4"),
        (CONFIGURATION, "labels", "all"),
    ],
)
def test_every_kind_of_network_and_label_learns_with_a_peer(stock, configuration, kind, fold):
    """2d, residual encoder, regions, ignore label, each fold: the peer comes, stays, leaves; validated."""
    site = stock(kind)
    site.federate(configuration)

    said = site.run(configuration, fold)

    assert rounds(site.fold(configuration, fold)) == WITH_PEER
    assert "Mean Validation Dice" in said
    assert (site.fold(configuration, fold) / "checkpoint_final.pth").exists()


def test_nnunets_own_residual_encoder_plans_learn_with_a_peer(phantom_data, tmp_path, monkeypatch):
    """Planned by nnUNetPlannerResEncM, trained with -p: what nnU-Net recommends, as large as it plans it."""
    plans, configuration = "nnUNetResEncUNetMPlans", "3d_fullres"
    site = Command(tmp_path, Path(shutil.copytree(phantom_data(), tmp_path / "data")), monkeypatch)
    site.prepare("nnUNetv2_plan_experiment", "-pl", "nnUNetPlannerResEncM")
    site.prepare("nnUNetv2_preprocess", "-plans_name", plans, "-c", configuration, "-np", "1")
    site.federate(configuration, plans)

    said = site.run(configuration, "0", "-p", plans)

    fold = site.fold(configuration, plans=plans)
    assert rounds(fold) == WITH_PEER
    assert "ResidualEncoderUNet" in said and "Mean Validation Dice" in said
    assert (fold / "checkpoint_final.pth").exists()


def test_a_cascade_learns_with_peers_in_both_stages(stock):
    """3d_lowres writes the next stage's input for every case, 3d_cascade reads it."""
    site = stock(MANY)
    for configuration, fold in (("3d_lowres_small", "all"), ("3d_cascade_small", "0")):
        site.federate(configuration)
        site.run(configuration, fold)
        assert rounds(site.fold(configuration, fold)) == WITH_PEER
    handed_on = site.fold("3d_lowres_small", "all").parent / "predicted_next_stage" / "3d_cascade_small"
    assert len(list(handed_on.iterdir())) >= 4


def test_validation_probabilities_and_pretrained_weights(stock):
    """--npz keeps probabilities; --val works without a site; -pretrained_weights starts from the result.

    Its segmentation layers are those that all sites begin with: nnU-Net never loads them.
    """
    site = stock()
    site.federate(CONFIGURATION)
    site.run(CONFIGURATION, "0", "--npz")
    fold = site.fold(CONFIGURATION)
    (npz,) = (fold / "validation").glob("*.npz")
    probabilities = np.load(npz)["probabilities"]
    assert probabilities.shape[0] == 6 and probabilities.sum(axis=0) == pytest.approx(1, abs=0.01)
    shutil.rmtree(fold / "validation")

    without_site = {name: value for name, value in site.environment.items() if name != SITE_VARIABLE}
    site.environment, with_site = without_site, site.environment
    assert "Mean Validation Dice" in site.run(CONFIGURATION, "0", "--val")
    (label,) = (fold / "validation").glob("*.nii.gz")
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(label))).shape == (32, 32, 32)

    site.environment = with_site
    pretrained = fold.with_name("pretrained.pth")
    shutil.copyfile(fold / "checkpoint_final.pth", pretrained)
    offer_like_a_peer(site.sites["south"], site.data, CONFIGURATION)
    site.run(CONFIGURATION, "all", "-pretrained_weights", str(pretrained))
    loaded = torch.load(pretrained, map_location="cpu", weights_only=False)["network_weights"]
    first, now = (torch.load(site.fold(CONFIGURATION, which) / "initial.pth") for which in ("0", "all"))
    for name, tensor in now.items():
        expected, other = (first, loaded) if ".seg_layers." in name else (loaded, first)
        assert torch.equal(tensor, expected[name]), name
        if name.endswith("layers.1.weight") or ".conv.weight" in name:
            assert not torch.equal(tensor, other[name]), name


def test_a_training_that_is_killed_in_a_round_goes_on_with_its_peer(stock):
    """kill -9 with the peer here; --c: same rounds, same peer, same epochs as without the kill."""
    site = stock()
    site.federate(CONFIGURATION)
    slow = f"{TRAINER}_slow"
    process = site.start(CONFIGURATION, "0", trainer=slow)
    fold = None
    end = time.monotonic() + 120
    while fold is None or not (fold / "checkpoint_latest.pth").exists() or not list(_visits(fold)):
        assert time.monotonic() < end and process.poll() is None
        fold = site.fold(CONFIGURATION, trainer=slow) if list(site.results.glob("Dataset*")) else None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert rounds(fold) == WITH_PEER[:1]

    process = site.start(CONFIGURATION, "0", "--c", trainer=slow)
    said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said[-4000:]
    assert "continued with site south, until epoch 5" in said
    assert rounds(fold) == WITH_PEER
    ledger = [json.loads(x) for x in (site.sites["north"].folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["event"] for line in ledger].count("offer") == 1
    final = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert "visit" not in final["nnunet_gml"]


def _visits(fold: Path):
    """The epochs that began with a peer, as the training log tells them."""
    for log in fold.glob("training_log_*.txt"):
        text = log.read_text()
        if "learning with it" in text:
            yield from (line for line in text.split("learning with it")[1].splitlines() if "Epoch 3" in line)
