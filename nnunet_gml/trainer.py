"""The trainer: where nnU-Net, the method and the courier meet. Everything else is nnU-Net's own."""

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_gml import __version__, gate, weights
from nnunet_gml.distillation import ClassWiseDistillation, MaskKind
from nnunet_gml.exchange import Arrival, Exchange
from nnunet_gml.mutual import Learner, Peer, train_with_peer
from nnunet_gml.plans import check_agreement, class_names, labelled_by
from nnunet_gml.rounds import Meeting
from nnunet_gml.trust import Scores, trust_per_class
from peer_sync.errors import ConfigError
from peer_sync.gossip import is_round_end, round_number
from peer_sync.manifest import Facts
from peer_sync.site import SITE_VARIABLE, Site, site_from_environment


class GossipTrainer(nnUNetTrainer):
    """nnU-Net that, between epochs, exchanges weights with one random peer and learns with it.

    After ``warmup_epochs`` of stock training a round begins every ``epochs_per_round`` epochs: our weights
    are offered, one peer's are collected in the background, scored per class on a fixed list of local
    validation patches, and for ``mutual_epochs`` epochs both networks learn from the data and from each
    other. With no peer at hand, an epoch is stock nnU-Net's.
    """

    distillation_weight: float = 0.5
    """λ, reached after ``ramp_rounds`` rounds."""
    ramp_rounds: int = 3
    mask: MaskKind = "agree"
    temperature: float = 1.0
    peer_learns: bool = True
    """Mutual learning; False: the peer's network is frozen and only teaches."""
    warmup_epochs: int = 50
    epochs_per_round: int = 10
    mutual_epochs: int = 5
    gate_batches: int = 8
    """Validation batches on which both networks are compared; chosen once."""

    network: nn.Module
    site: Site | None = None
    peer: Peer | None = None
    peer_leaves_at: int = 0
    """Epoch before which the peer in use is dropped."""

    def initialize(self) -> None:
        """Build network, optimiser and loss as nnU-Net does, from initial weights that all sites share."""
        if self.is_ddp:
            raise NotImplementedError(
                f"{type(self).__name__} runs on one GPU per site: leave out -num_gpus, "
                "or train with nnUNetTrainer"
            )
        self.site = self._load_site()
        if self.site is None:
            super().initialize()
        else:
            with gate.randomness_of(self.site.federation.seed, "initial weights"):
                super().initialize()
        self.save_every = self.epochs_per_round
        self.classes = class_names(self.dataset_json)
        self.distil = ClassWiseDistillation(
            has_regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            mask=self.mask,
            temperature=self.temperature,
        )

    def on_train_start(self) -> None:
        """Open the mailbox before, and start the courier after, nnU-Net has prepared itself."""
        if not self.was_initialized:
            self.initialize()
        try:
            site = self.site or site_from_environment()
            check_agreement(site, self.plans_manager.plans, self.dataset_json, self.configuration_name)
            self.exchange = Exchange(site, self.network, self._say)
            super().on_train_start()
            self._prepare_for_peers(site)
            self.exchange.start()
        except ConfigError as error:
            self._stop(error)
        peers = ", ".join(site.federation.peers_of(site.name))
        self._say(f"site {site.name} of federation {site.federation.name}, peers: {peers}")

    def on_train_epoch_start(self) -> None:
        """Let the last peer go when its epochs are over, and take in a new one if its weights are here."""
        super().on_train_epoch_start()
        if self.current_epoch >= self.peer_leaves_at:
            self.peer = None
        arrival = self.exchange.receive(like=self.network)
        if arrival is not None:
            weights.put(arrival.tensors, self.peer_network)
            self._meet(arrival)
        if self.peer is not None:
            self.peer_network.train()
            self.peer_schedule.step(self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Stock nnU-Net's step, or one of two networks while a peer is here."""
        if self.peer is not None:
            try:
                return self._train_step_with(self.peer, batch)
            except torch.OutOfMemoryError:
                self.peer = None
                torch.cuda.empty_cache()
                self._say(
                    "the GPU's memory is too small for two networks: this step and the rest of the round "
                    "go on without the peer; nnUNetTrainerGMLFrozen needs less"
                )
        step: dict[str, Any] = super().train_step(batch)
        return step

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log how far the peer pulled, beside nnU-Net's training loss."""
        super().on_train_epoch_end(train_outputs)
        if self.pulls:
            self._say(f"distillation {float(torch.stack(self.pulls).mean()):.4f} nats, mean over the epoch")
            self.pulls.clear()

    def on_epoch_end(self) -> None:
        """nnU-Net counts the epoch and saves; then, at a round's end, offer ours and send for a peer's."""
        super().on_epoch_end()
        schedule = (self.current_epoch, self.warmup_epochs, self.epochs_per_round)
        if is_round_end(*schedule) and self.current_epoch < self.num_epochs:
            round_ = round_number(*schedule)
            self.exchange.begin_round(self.network, lambda dtype: self._facts(round_, dtype), round_)

    def on_train_end(self) -> None:
        """Stop the courier once nnU-Net has written its final checkpoint; free what only peers needed."""
        super().on_train_end()
        self.exchange.stop()
        self.peer = None
        del self.peer_network, self.gate_list

    def save_checkpoint(self, filename: str) -> None:
        """A stock checkpoint, readable without this plugin, with our own state under one extra key."""
        if self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        part = Path(f"{filename}.part")
        super().save_checkpoint(str(part))
        checkpoint = torch.load(part, map_location="cpu", weights_only=False)
        checkpoint["trainer_name"] = nnUNetTrainer.__name__
        checkpoint["nnunet_gml"] = {
            "version": __version__,
            "trainer": type(self).__name__,
            "federation": self.site.federation.digest if self.site else None,
        }
        torch.save(checkpoint, part)
        part.replace(filename)

    def _prepare_for_peers(self, site: Site) -> None:
        seed = (site.federation.seed, site.name, "gate")
        self.gate_list = gate.fixed_batches(self.dataloader_val, self.gate_batches, *seed)
        self.peer_network = copy.deepcopy(weights.unwrap(self.network))
        if self._do_i_compile():
            self.peer_network.compile()
        self.pulls: list[Tensor] = []

    def _train_step_with(self, peer: Peer, batch: dict[str, Any]) -> dict[str, Any]:
        target = batch["target"]
        losses = train_with_peer(
            batch["data"].to(self.device, non_blocking=True),
            [scale.to(self.device, non_blocking=True) for scale in target]
            if isinstance(target, list)
            else target.to(self.device, non_blocking=True),
            Learner(self.network, self.optimizer, self.grad_scaler),
            peer,
            self.loss,
            self.distil,
        )
        self.pulls.append(losses.distillation)
        return {"loss": losses.supervised.cpu().numpy()}

    def _facts(self, round_: int, dtype: str) -> Facts:
        site = self.exchange.site
        dice = self.logger.get_value("dice_per_class_or_region", step=-1)
        named = {name: float(d) for name, d in zip(self.classes, dice, strict=True) if np.isfinite(d)}
        return Facts(
            round=round_,
            epoch=self.current_epoch,
            plans_digest=site.federation.plans_digest,
            schema_digest=self.exchange.schema_digest,
            dtype=dtype,
            labelled=labelled_by(site.member, self.classes),
            cases=len(gate.base_loader(self.dataloader_train).indices) if site.share_cases else None,
            dice=named if site.share_dice else None,
        )

    def _meet(self, arrival: Arrival) -> None:
        """Score the peer against ourselves, and learn with it if it is trusted in any class."""
        peer, round_ = arrival.delivery.peer, arrival.delivery.round
        theirs, ours = self._score(self.peer_network), self._score(self.network)
        labelled = self._labelled_at(peer) & self._labelled_at(self.exchange.site.name)
        stated = arrival.delivery.manifest.dice or {}
        declared = torch.tensor([stated.get(name, torch.nan) for name in self.classes])
        meeting = Meeting(
            arrival,
            self.current_epoch,
            self.classes,
            theirs,
            ours,
            trust=trust_per_class(theirs, ours, labelled, declared),
            weight=self.distillation_weight * min(1.0, round_ / max(1, self.ramp_rounds)),
        )
        self.peer = self._learn_from(meeting, labelled) if meeting.is_useful else None
        self.peer_leaves_at = self.current_epoch + self.mutual_epochs
        self._say(meeting.sentence(self.mutual_epochs))
        self.exchange.met(arrival, float(meeting.trust.mean()))
        try:
            meeting.append_to(Path(self.output_folder))
        except OSError as error:
            self._say(f"round {round_} is missing in the list of rounds: {error}")

    def _learn_from(self, meeting: Meeting, labelled: Tensor) -> Peer:
        with self._as_network(self.peer_network):
            optimizer, self.peer_schedule = self.configure_optimizers()
        ours = self.grad_scaler
        scaler = ours and torch.amp.GradScaler(self.device.type, init_scale=ours.get_scale())
        return Peer(
            learner=Learner(self.peer_network, optimizer, scaler),
            trust=meeting.trust.to(self.device),
            trust_in_us=trust_per_class(meeting.ours, meeting.theirs, labelled).to(self.device),
            labelled=labelled.to(self.device),
            weight=meeting.weight,
            learns=self.peer_learns,
        )

    def _score(self, network: nn.Module) -> Scores:
        with self._as_network(network):
            return gate.score(network, self.gate_list, self.validation_step)

    @contextmanager
    def _as_network(self, network: nn.Module) -> Iterator[None]:
        """Let nnU-Net's own methods act on another network for a moment."""
        own, self.network = self.network, network
        try:
            yield
        finally:
            self.network = own

    def _labelled_at(self, site: str) -> Tensor:
        names = labelled_by(self.exchange.site.federation.member(site), self.classes)
        return torch.tensor([name in names for name in self.classes])

    def _load_site(self) -> Site | None:
        """This site's settings; None where there are none, which is enough for ``--val``."""
        try:
            return site_from_environment() if os.environ.get(SITE_VARIABLE) else None
        except ConfigError as error:
            self._stop(error)

    def _say(self, sentence: str) -> None:
        self.print_to_log_file(f"nnunet-gml: {sentence}")

    def _stop(self, error: ConfigError) -> NoReturn:
        self._say(f"error: {error}")
        if error.hint:
            self._say(f"hint: {error.hint}")
        sys.exit(2)


class FrozenGossipTrainer(GossipTrainer):
    """The peer's network only teaches: one more forward pass a step instead of a second training."""

    peer_learns = False
