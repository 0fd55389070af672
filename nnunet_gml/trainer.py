"""The frame of every trainer here: where nnU-Net, one site's settings and the courier meet."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_gml import __version__, channels, gate, merging, weights
from nnunet_gml.exchange import Arrival, Exchange
from nnunet_gml.partial_labels import MarginalBackground
from nnunet_gml.plans import check_agreement, class_names, labelled_by
from nnunet_gml.ranks import Ranks
from peer_sync.errors import ConfigError
from peer_sync.gossip import draw_peer, is_round_end, round_number
from peer_sync.manifest import Facts
from peer_sync.site import SITE_VARIABLE, Site, site_from_environment

LATEST = "checkpoint_latest.pth"
STATE = "nnunet_gml"
"""Our one key in nnU-Net's checkpoint."""


class FederatedTrainer(nnUNetTrainer):
    """nnU-Net that offers its weights at the end of every round and takes in those of peers.

    What becomes of a peer's weights is up to the trainers that inherit from this one. On several GPUs
    the first one exchanges, and tells the others.
    """

    warmup_epochs: int = 50
    """Epochs of stock training before the first exchange."""
    epochs_per_round: int = 10
    merge_exclude: str = ""
    """``normalization``: layers that stay each site's own where weights are averaged (as in FedBN)."""

    in_lock_step: bool = False
    """Only weights of the same round are of use; training waits for them."""

    network: nn.Module
    site: Site | None = None
    exchange: Exchange
    _channel_order: tuple[int, ...] | None = None
    round: int = 0
    """The last round whose exchange was begun."""

    def initialize(self) -> None:
        """Build network, optimiser and loss as nnU-Net does, from initial weights that all sites share."""
        self.ranks = Ranks()
        self.classes = class_names(self.dataset_json)
        self.restored: dict[str, Any] = {}
        self.site = self._load_site()
        if self.site is None:
            super().initialize()
        else:
            with gate.randomness_of(self.site.federation.seed, "initial weights"):
                super().initialize()
            self._order_channels(self.site)
        self.save_every = self.epochs_per_round

    def on_train_start(self) -> None:
        """Open the mailbox before, and start the courier after, nnU-Net has prepared itself."""
        if not self.was_initialized:
            self.initialize()
        try:
            self.site = self.site or site_from_environment()
            check_agreement(self.site, self.plans_manager.plans, self.dataset_json, self.configuration_name)
            if self.ranks.is_first:
                self.exchange = Exchange(self.site, self.network, self.say, self._channel_order)
            super().on_train_start()
            self.prepare()
            if self.ranks.is_first:
                self.exchange.start()
        except ConfigError as error:
            self._stop(error)
        peers = ", ".join(self.site.federation.peers_of(self.site.name))
        self.say(f"site {self.site.name} of federation {self.site.federation.name}, peers: {peers}")
        self._take_up_round()

    def prepare(self) -> None:
        """Set up what peers' weights need; `restored` holds what `state` returned before a ``--c``."""

    def state(self, filename: str) -> dict[str, Any]:
        """What a checkpoint of this name has to keep, beside nnU-Net's own content."""
        return {
            "version": __version__,
            "trainer": type(self).__name__,
            "federation": self.site.federation.digest if self.site else None,
            "round": self.round,
        }

    def on_epoch_end(self) -> None:
        """nnU-Net counts the epoch and saves; then, at a round's end, offer ours and send for others'."""
        super().on_epoch_end()
        if self._is_round_end() and self.current_epoch < self.num_epochs:
            if self.current_epoch % self.save_every:
                self.save_latest()
            self.begin_round(self._due_round())

    def begin_round(self, round_: int) -> bool:
        """Offer our weights and send for those of this round's peers; at once. Says whether it could."""
        self.round = round_
        begun = False
        if self.ranks.is_first:
            begun = self.exchange.begin_round(
                self.network,
                lambda dtype: self._facts(round_, dtype),
                round_,
                self.peers_of_round(round_),
                least_round=round_ if self.in_lock_step else 0,
            )
        return self.ranks.share(begun)

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
        part = Path(f"{filename}.part")
        super().save_checkpoint(str(part))
        checkpoint = torch.load(part, map_location="cpu", weights_only=False)
        checkpoint["trainer_name"] = nnUNetTrainer.__name__
        checkpoint[STATE] = self.state(Path(filename).name)
        torch.save(checkpoint, part)
        part.replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """nnU-Net's own, and our state; a stock checkpoint has none."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
        self.restored = checkpoint.get(STATE, {})
        self.round = self.restored.get("round", self._due_round())

    @property
    def own_site(self) -> Site:
        """This site's settings, in a training."""
        assert self.site is not None, "only a validation runs without a site"
        return self.site

    def labelled_at(self, site: str) -> Tensor:
        """``(C,)``, bool: the classes that a site contours."""
        names = labelled_by(self.own_site.federation.member(site), self.classes)
        return torch.tensor([name in names for name in self.classes])

    def names_to_keep(self) -> frozenset[str]:
        """Tensors that no average touches."""
        if self.merge_exclude == "normalization":
            return merging.normalization_names(weights.unwrap(self.network))
        return frozenset()

    def say(self, sentence: str) -> None:
        """Write a sentence into the training log, as everything from here begins."""
        self.print_to_log_file(f"nnunet-gml: {sentence}")

    def _build_loss(self) -> Any:  # noqa: ANN401 - nnU-Net's, not typed
        """nnU-Net's loss; where a class is never contoured here, it may hide in the background."""
        loss = super()._build_loss()
        self.deep_supervision_weights: tuple[float, ...] = (
            tuple(map(float, loss.weight_factors)) if isinstance(loss, DeepSupervisionWrapper) else (1.0,)
        )
        if self.site is None or bool(self.labelled_at(self.site.name).all()):
            return loss
        return MarginalBackground(
            loss,
            self.labelled_at(self.site.name),
            self.label_manager.has_regions,
            self.label_manager.ignore_label,
        )

    def _order_channels(self, site: Site) -> None:
        """Give every class the initial output weights that it has at the other sites."""
        names = site.federation.classes
        if names is None or set(names) != set(self.classes):  # `check_agreement` says what differs
            return
        self._channel_order = channels.class_order(self.classes, names)
        if self._channel_order is not None:
            tensors, layers = weights.named_tensors(self.network), channels.output_layers(self.network)
            weights.put(channels.from_federation(tensors, layers, self._channel_order, True), self.network)

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

    def _facts(self, round_: int, dtype: str) -> Facts:
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
            plans_digest=site.federation.plans_digest,
            schema_digest=self.exchange.schema_digest,
            dtype=dtype,
            labelled=labelled,
            cases=self.training_cases() if site.share_cases else None,
            dice=named if site.share_dice else None,
        )

    def training_cases(self) -> int:
        """How many cases this site trains on."""
        return len(gate.base_loader(self.dataloader_train).indices)

    def _load_site(self) -> Site | None:
        """This site's settings; None where there are none, which is enough for ``--val``."""
        try:
            return site_from_environment() if os.environ.get(SITE_VARIABLE) else None
        except ConfigError as error:
            self._stop(error)

    def _stop(self, error: ConfigError) -> NoReturn:
        self.say(f"error: {error}")
        if error.hint:
            self.say(f"hint: {error.hint}")
        sys.exit(2)
