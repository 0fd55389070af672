"""The frame of every trainer here: where nnU-Net and the courier meet, round by round."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_gml import __version__, checkpoints, gate, merging, progress_picture, weights
from nnunet_gml.exchange import Arrival, Exchange
from nnunet_gml.partial_labels import MarginalBackground
from nnunet_gml.planning.plan_documents import difference_from
from nnunet_gml.planning.plans import by_name, contract_of, labelled_by
from nnunet_gml.ranks import Ranks
from nnunet_gml.settings import check_choices
from nnunet_gml.site_trainer import SiteTrainer
from peer_sync.errors import ConfigError
from peer_sync.gossip import draw_peer, is_round_end, round_number
from peer_sync.manifest import Facts
from peer_sync.site import site_from_environment

LATEST = "checkpoint_latest.pth"
STATE = "nnunet_gml"
"""Our one key in nnU-Net's checkpoint."""


class FederatedTrainer(SiteTrainer):
    """nnU-Net that offers its weights at the end of every round and takes in those of peers.

    What becomes of a peer's weights is up to the trainers that inherit from this one. On several GPUs
    the first one exchanges, and tells the others.
    """

    warmup_epochs: int = 50
    """Epochs of stock training before the first exchange."""
    epochs_per_round: int = 10
    merge_exclude: Literal["", "normalization"] = ""
    """``normalization``: layers that stay each site's own where weights are averaged (as in FedBN)."""

    in_lock_step: bool = False
    """Only weights of the same round, or of a later one, are of use; training waits for them."""

    exchange: Exchange
    round: int = 0
    """The last round whose exchange was begun."""

    def initialize(self) -> None:
        """See `SiteTrainer.initialize`; when the latest checkpoint is written is not left to nnU-Net."""
        self.ranks = Ranks()
        self.restored: dict[str, Any] = {}
        super().initialize()
        self.save_every = sys.maxsize

    def on_train_start(self) -> None:
        """Open the mailbox before, and start the courier after, nnU-Net has prepared itself."""
        try:
            check_choices(self)
            if not self.was_initialized:
                self.initialize()
            self.site = self.site or site_from_environment()
            if self.ranks.is_first:
                self.exchange = self.new_exchange()
            super().on_train_start()
            if self.restored.get("hidden") is not None:
                self.let_hide(self.restored["hidden"])
            self.prepare()
            if self.ranks.is_first:
                self.exchange.start()
        except ConfigError as error:
            self.stop(error)
        peers = ", ".join(self.site.federation.peers_of(self.site.name))
        self.say(f"site {self.site.name} of federation {self.site.federation.name}, peers: {peers}")
        self._take_up_round()

    def new_exchange(self) -> Exchange:
        """This training's mailbox and courier, not started. Raises `ConfigError`."""
        return Exchange(
            self.own_site,
            self.network,
            self.say,
            self.channel_order,
            self.plans_digest,
            self._difference_from,
        )

    def prepare(self) -> None:
        """Set up what peers' weights need; `restored` holds what `state` returned before a ``--c``."""

    def state(self, filename: str) -> dict[str, Any]:
        """What a checkpoint of this name has to keep, beside nnU-Net's own content."""
        return {
            "version": __version__,
            "trainer": type(self).__name__,
            "federation": self.site.federation.digest if self.site else None,
            "round": self.round,
            "hidden": self.loss.hidden if isinstance(self.loss, MarginalBackground) else None,
        }

    def on_epoch_end(self) -> None:
        """nnU-Net counts the epoch; at a round's end save, offer ours and send for others'.

        In the warm-up it is saved as often. Between two rounds' ends it is not: whoever continued there
        would not know what was sent for, nor FedProx the last mean.
        """
        super().on_epoch_end()
        if self.current_epoch >= self.num_epochs:
            return
        if (self.current_epoch - self.warmup_epochs) % self.epochs_per_round == 0:
            self.save_latest()
        if self._is_round_end():
            if self.ranks.is_first:
                progress_picture.try_to_draw(Path(self.output_folder), self.say)
            self.begin_round(self._due_round())

    def begin_round(self, round_: int) -> None:
        """Offer our weights and send for those of this round's peers; returns at once."""
        self._renew_federation()
        self.round = round_
        if self.ranks.is_first:
            self.exchange.begin_round(
                self.network,
                self._facts(round_),
                self.peers_of_round(round_),
                least_round=round_ if self.in_lock_step else 0,
            )

    def offered(self) -> str:
        """The type in which our weights of this round travel, as soon as they are written.

        Empty where nothing could be offered; on every GPU the same.
        """
        return self.ranks.share(self.exchange.offered() if self.ranks.is_first else "")

    def _renew_federation(self) -> None:
        """Go on with a federation.toml that was changed since the last round, on every GPU the same."""
        site = self.ranks.share(self.exchange.renewed() if self.ranks.is_first else None)
        if site is not None:
            self.site = site
            self.federation_changed()

    def federation_changed(self) -> None:
        """`site` has another federation file than before: others may have left, or come."""

    def peers_of_round(self, round_: int) -> tuple[str, ...]:
        """Whose weights are sent for: one random peer's."""
        site = self.own_site
        peers = site.federation.peers_of(site.name)
        return (draw_peer(site.federation.seed, site.name, round_, peers),)

    def receive(self) -> Arrival | None:
        """A peer's weights that have come and kept every rule; on every GPU the same."""
        arrival = self.exchange.receive(like=self.network) if self.ranks.is_first else None
        facts = self.ranks.share((arrival.delivery, arrival.likeness) if arrival else None)
        if facts is None:
            return None
        delivery, likeness = facts
        tensors = self.ranks.share_tensors(
            arrival.tensors if arrival else None, weights.named_tensors(self.network)
        )
        return Arrival(delivery, tensors, likeness)

    def on_train_end(self) -> None:
        """Stop the courier once nnU-Net has written its final checkpoint."""
        super().on_train_end()
        if self.ranks.is_first:
            self.exchange.stop()
            progress_picture.try_to_draw(Path(self.output_folder), self.say)

    def save_latest(self) -> None:
        """Write nnU-Net's checkpoint for ``--c`` between two epochs, where it would count one too many."""
        self.current_epoch -= 1
        self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        self.current_epoch += 1

    def save_checkpoint(self, filename: str) -> None:
        """A stock checkpoint, readable without this plugin, with our own state under one extra key."""
        if self.disable_checkpointing or not self.ranks.is_first:
            super().save_checkpoint(filename)
            return
        ours = {"trainer_name": nnUNetTrainer.__name__, STATE: self.state(Path(filename).name)}
        checkpoints.write(Path(filename), super().save_checkpoint, ours)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """nnU-Net's own, and our state; a stock checkpoint has none."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
        self.restored = checkpoint.get(STATE, {})
        self.round = self.restored.get("round", self._due_round())

    def write_down(self, write: Callable[[Path], None]) -> None:
        """Let one process write into the list of rounds; a full disk costs the line, not the training."""
        if not self.ranks.is_first:
            return
        try:
            write(Path(self.output_folder))
        except OSError as error:
            self.say(f"round {self.round} is missing in the list of rounds: {error}")

    def names_to_keep(self) -> frozenset[str]:
        """Tensors that no average touches."""
        if self.merge_exclude == "normalization":
            return merging.normalization_names(weights.unwrap(self.network))
        return frozenset()

    def _is_round_end(self) -> bool:
        return is_round_end(self.current_epoch, self.warmup_epochs, self.epochs_per_round)

    def _due_round(self) -> int:
        return round_number(self.current_epoch, self.warmup_epochs, self.epochs_per_round)

    def _take_up_round(self) -> None:
        """After ``--c``: begin the round at whose end the checkpoint was written, if that is still to do."""
        if self.restored and self._is_round_end() and self.round < self._due_round() <= self._last_round():
            self.say(f"continued: round {self._due_round()} is begun again")
            self.begin_round(self._due_round())

    def _last_round(self) -> int:
        return round_number(self.num_epochs - 1, self.warmup_epochs, self.epochs_per_round)

    def _difference_from(self, peer: str) -> str:
        """In what a peer's plans differ from ours, if it has published them; may take a minute."""
        contract = contract_of(
            self.plans_manager.plans, self.dataset_json, self.configuration_name, by_name(self.own_site)
        )
        return difference_from(self.own_site, contract, peer)

    def _facts(self, round_: int) -> Facts:
        site = self.own_site
        labelled = labelled_by(site.member, self.classes)
        dice = self.logger.get_value("dice_per_class_or_region", step=-1)
        named = {
            name: float(d)
            for name, d in zip(self.classes, dice, strict=True)
            if name in labelled and np.isfinite(d)
        }
        return Facts(
            round=round_,
            epoch=self.current_epoch,
            plans_digest=self.plans_digest,
            schema_digest=self.exchange.schema_digest,
            dtype=site.payload,
            labelled=labelled,
            cases=self.training_cases() if site.share_cases else None,
            dice=named if site.share_dice else None,
        )

    def training_cases(self) -> int:
        """How many cases this site trains on."""
        return len(gate.base_loader(self.dataloader_train).indices)
