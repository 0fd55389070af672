"""Trainings that run on while federation.toml changes: real processes, real servers, no new start."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
import torch
from courier_kit import build_sites
from nnunet_kit import WaitingTrainer
from trainer_kit import a_little_further, ledger, log_of, rounds
from training_kit import TrainingSite, agree_on_plans

from nnunet_gml.learning import GossipTrainer
from nnunet_gml.rounds import Meeting
from nnunet_gml.trust import Scores
from peer_sync import founding, renewal
from peer_sync.gossip import draw_peer
from peer_sync.site import load_site

HELD = """
import time
from pathlib import Path
import torch
from nnunet_gml.learning import GossipTrainer

FOLDER = Path(__file__).parents[1]


class nnUNetTrainerGML_held(GossipTrainer):
    warmup_epochs = 2
    epochs_per_round = 1
    mutual_epochs = 1
    gate_batches = 1

    def initialize(self):
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 18, 3, 1
        super().initialize()

    def on_epoch_start(self):
        while self.current_epoch in (6, 14) and not (FOLDER / f"go-{self.current_epoch}").exists():
            time.sleep(0.1)
        super().on_epoch_start()
"""
"""Round 1 after two epochs, then one every epoch; before epochs 6 and 14 it waits for a file."""


@pytest.fixture
def three(phantom_data, tmp_path):
    """Three sites with servers; south is not in the federation yet."""
    sites = build_sites(tmp_path, ("east", "north", "south"), served=True)
    agree_on_plans(tmp_path, phantom_data())
    (tmp_path / "variants" / "nnUNetTrainerGML_held.py").write_text(HELD)
    founding.remove(tmp_path / "federation.toml", ["south"])
    made = {name: TrainingSite(name, tmp_path, phantom_data()) for name in sites}
    yield made, sites["south"].member
    for site in made.values():
        site.end()


def met(site: TrainingSite) -> list[dict]:
    return [line for line in site.ledger() if line["event"] == "meet"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_site_comes_and_goes_while_the_others_train(three, tmp_path):
    """North and east meet south after it was added, and never after it was taken out; nobody begins again.

    South, which the file does not name any more, says so and trains to its end alone.
    """
    sites, member = three
    others = [sites["north"], sites["east"]]
    for site in others:
        site.start("-tr", "nnUNetTrainerGML_held")
    for site in others:
        site.wait_for("Epoch 5", 300)
    founding.add(tmp_path / "federation.toml", [member])
    sites["south"].start("-tr", "nnUNetTrainerGML_held")
    sites["south"].wait_for("Epoch 5", 300)

    (tmp_path / "go-6").touch()
    for site in sites.values():
        site.wait_for("Epoch 13", 300)
    founding.remove(tmp_path / "federation.toml", ["south"])
    (tmp_path / "go-14").touch()

    for site in sites.values():
        assert site.process.wait(timeout=300) == 0, site.said()[-3000:]
    for site in others:
        assert "version 2 before, version 3 from now on; with south" in site.said()
        assert "version 3 before, version 4 from now on; without south" in site.said()
        drawn = re.findall(r"round (\d+): offering our weights, sending for those of site (\w+)", site.said())
        assert {int(round_) for round_, peer in drawn if peer == "south"} <= set(range(6, 14))
    assert any(line["peer"] == "south" for site in others for line in met(site))
    assert all(line["round"] < 14 for site in others for line in met(site) if line["peer"] == "south")
    assert "is not taken, version 3 goes on" in sites["south"].said()
    assert sites["south"].said().count("is not taken") == 1


def test_a_training_is_continued_without_a_peer_that_was_taken_out(tmp_path):
    """Its checkpoint still has the network of west, which no federation.toml names any more."""

    class Continued(GossipTrainer):
        def __init__(self) -> None:
            self.site, self.said = build_sites(tmp_path)["north"], []

        def say(self, sentence: str) -> None:
            self.said.append(sentence)

    scores, trainer = Scores.unknown(1), Continued()
    meeting = Meeting("west", 1, 1, 0.0, 1.0, 5, ("organ",), scores, scores, torch.ones(1), 0.5)

    trainer._take_up({"meeting": asdict(meeting)})

    assert trainer.visit is None
    assert trainer.said == ["site west was taken out of federation.toml: continued without it"]


class Renewing(WaitingTrainer):
    """A round at the end of every epoch; east is in the file from the end of the second one."""

    epochs_per_round = 1
    mutual_epochs = 3
    text = staticmethod(lambda federation: federation)

    def on_epoch_end(self) -> None:
        if self.current_epoch == 1:
            path = self.own_site.federation.path
            path.write_text(self.text(path.read_text()))
        super().on_epoch_end()


def with_west(text: str) -> str:
    """A version more, in which west stands in the place of south."""
    return text.replace("seed = 7", "version = 2\nseed = 7").replace('name = "south"', 'name = "west"')


class SouthLeaves(Renewing):
    text = staticmethod(with_west)


class Broken(Renewing):
    text = staticmethod(lambda text: text[:-40])


class OtherSeed(Renewing):
    text = staticmethod(lambda text: text.replace("seed = 7", "seed = 8"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(renewal, "SETTLE_SECONDS", 0.2)


quietly = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@quietly
def test_a_peer_that_is_taken_out_leaves_in_the_middle_of_its_stay(run):
    """Nothing of it is merged; the checkpoint, the draws and our offers are those of the new file."""
    trainer = run(SouthLeaves, peer=a_little_further, epochs=4)

    said = log_of(trainer)
    site = load_site(trainer.own_site.path)
    assert "version 1 before, version 2 from now on; without south; with west" in said
    assert "site south was taken out of federation.toml, so it leaves now" in said
    came, left = [line for line in rounds(trainer) if line["peer"] == "south"]
    assert (came["epoch"], left["event"], left["epoch"], left["merged"]) == (1, "left", 2, 0)
    assert trainer.state("checkpoint_latest.pth")["federation"] == site.federation.digest
    drawn = re.findall(r"sending for those of site (\w+)", said)
    peers = site.federation.peers_of("north")
    assert drawn == ["south", *(draw_peer(site.federation.seed, "north", round_, peers) for round_ in (2, 3))]
    assert all(line["peer"] != "south" for line in ledger(trainer) if line["round"] and line["round"] > 1)


@quietly
@pytest.mark.parametrize("cls", [Broken, OtherSeed])
def test_a_file_that_this_training_cannot_take_costs_a_sentence(run, cls):
    """It trains to its end with the file it has, and says so once."""
    trainer = run(cls, epochs=4, peer=a_little_further)

    assert log_of(trainer).count("is not taken, version 1 goes on") == 1
    assert trainer.own_site.federation.version == 1
    assert trainer.current_epoch == 4
