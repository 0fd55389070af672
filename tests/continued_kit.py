"""A training among three sites that is killed at a given place and continued as ``--c`` does."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from courier_kit import wait_for
from nnunet_kit import build_trainer, offer_network, seed_everything, sites_for, use_folders, wait_for_arrival
from nnunetv2.run.run_training import maybe_load_checkpoint
from trainer_kit import a_little_further, ledger

from nnunet_gml.learning import GossipTrainer
from nnunet_gml.phantom import ORGANS
from nnunet_gml.trust import Scores
from peer_sync.site import SITE_VARIABLE, load_site

EPOCHS = 10
NAMES = ("east", "north", "south")
CONTOURED = tuple(name for name in ORGANS if name != "mandible")


class KilledError(Exception):
    """The training ends here."""


@dataclass
class Seen:
    """What an epoch began with; ``visit`` is the peer, until when it stays, and its epochs so far."""

    round: int
    hidden: list[bool] | None
    trust: dict[str, list[float]]
    patches: str
    visit: tuple[str, int, int] | None


class Steady(GossipTrainer):
    """Rounds after epochs 2, 5 and 8; an epoch draws the same in every run.

    The Dice of peers is behind ours, from round to round as ``behind`` says.
    """

    warmup_epochs, epochs_per_round, mutual_epochs, gate_batches = 2, 3, 2, 1
    behind: ClassVar = {1: 0.02, 2: 0.04, 3: 0.06}
    killed_at = ""
    unanswered = 0
    """In this round nobody offers anything."""
    answered: set[int]
    """Rounds for which a peer's offer was made already."""

    def begin_round(self, round_: int) -> None:
        self.reach(f"round {round_}")
        if round_ not in {*self.answered, self.unanswered}:
            self.answered.add(round_)
            further = copy.deepcopy(self.network)
            a_little_further(further)
            (peer,) = self.peers_of_round(round_)
            offer_network(load_site(self.own_site.path.with_name(f"{peer}.toml")), further)
        super().begin_round(round_)

    def on_epoch_start(self) -> None:
        seed_everything(self.current_epoch)
        if self.round != self.unanswered and self.offered() and self.exchange.open_peers():
            wait_for_arrival(self.exchange)
        self.reach(f"arrival {self.round}")
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        kept, visit = self.state("checkpoint_latest.pth"), self.visit
        self.seen[self.current_epoch] = Seen(
            kept["round"],
            None if kept["hidden"] is None else kept["hidden"].tolist(),
            {peer: trust.tolist() for peer, trust in kept["trust"].items()},
            kept["gate"],
            visit and (visit.meeting.peer, visit.leaves_at, visit.stay.epochs),
        )
        self.reach(f"epoch {self.current_epoch}")

    def score(self, network: torch.nn.Module) -> Scores:
        dice = 0.5 - (0.0 if network is self.network else self.behind[self.round])
        return Scores(torch.full((len(self.classes),), dice, dtype=torch.float64), self.labelled_here)

    def reach(self, place: str) -> None:
        """Die if this is the place, as soon as our last offer is out."""
        if place == self.killed_at:
            wait_for(lambda: self.round in {round_ for round_, _ in offers(self)})
            raise KilledError


class Fold:
    """North's training in a folder, with attributes for its trainer."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        monkeypatch,
        contoured: Iterable[str] = CONTOURED,
        **attributes: object,
    ) -> None:
        self.folder, self.data, self.monkeypatch = folder, data, monkeypatch
        self.attributes = {"answered": set(), **attributes}
        sites_for(folder, data, names=NAMES)
        labelled = str([*contoured]).replace("'", '"')
        self.rewrite('name = "north"', f'name = "north"\nlabelled = {labelled}')

    def rewrite(self, old: str, new: str) -> None:
        """Change federation.toml."""
        path = self.folder / "federation.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def train(self, continued: bool = False, **attributes: object) -> Steady:
        """From the beginning, or from nnU-Net's last checkpoint; to the end, or where it is killed."""
        use_folders(self.data, self.monkeypatch, results=self.folder / "results")
        self.monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        self.monkeypatch.setenv(SITE_VARIABLE, str(self.folder / "north.toml"))
        trainer = build_trainer(type("Steady", (Steady,), self.attributes | attributes), self.data, EPOCHS)
        trainer.seen = {}
        maybe_load_checkpoint(trainer, continued, False)
        try:
            trainer.run_training()
        except KilledError:
            trainer.exchange.stop()
        return trainer


def offers(trainer: GossipTrainer) -> list[tuple[int, int]]:
    """Round and number of everything that this site has offered."""
    return [(line["round"], line["sequence"]) for line in ledger(trainer) if line["event"] == "offer"]
