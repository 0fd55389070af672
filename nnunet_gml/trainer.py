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
from nnunet_gml.mutual import Learner, Peer, train_with_peer
from nnunet_gml.plans import check_agreement, class_names, labelled_by
from nnunet_gml.rounds import Meeting
from nnunet_gml.trust import Scores, trust_per_class
from peer_sync.agent import Courier
from peer_sync.errors import ConfigError, RejectedError, TransportError
from peer_sync.gossip import draw_peer, is_round_end, round_number
from peer_sync.mailbox import Delivery, Mailbox
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
        self.distil = ClassWiseDistillation(
            has_regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            mask=self.mask,
            temperature=self.temperature,
        )
        self.classes = class_names(self.dataset_json)

    def on_train_start(self) -> None:
        """Open the mailbox before, and start the courier after, nnU-Net has prepared itself."""
        if not self.was_initialized:
            self.initialize()
        try:
            site = self.site or site_from_environment()
            check_agreement(site, self.plans_manager.plans, self.dataset_json, self.configuration_name)
            self.mailbox = Mailbox(site)
            super().on_train_start()
            seed = (site.federation.seed, site.name, "gate")
            self.gate_list = gate.fixed_batches(self.dataloader_val, self.gate_batches, *seed)
            self.peer_network = self._copy_of_network()
            self.pulls: list[Tensor] = []
            self.courier = Courier(
                self.mailbox, site.federation.plans_digest, weights.schema_digest(self.network)
            )
            self.courier.start()
        except ConfigError as error:
            self._stop(error)
        peers = ", ".join(site.federation.peers_of(site.name)) or "nobody"
        self._say(f"site {site.name} of federation {site.federation.name}, peers: {peers}")

    def on_train_epoch_start(self) -> None:
        """Let the last peer go when its epochs are over, and take in a new one if its weights are here."""
        super().on_train_epoch_start()
        for message in self.courier.messages():
            self._say(message)
        if self.peer is not None and self.current_epoch >= self.peer_leaves_at:
            self.peer = None
        delivery = self.courier.delivery()
        if delivery is not None:
            self._receive(delivery)
        if self.peer is not None:
            self.peer_network.train()
            self.peer_schedule.step(self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Stock nnU-Net's step, or one of two networks while a peer is here."""
        if self.peer is None:
            step: dict[str, Any] = super().train_step(batch)
            return step
        data, target = batch["data"], batch["target"]
        losses = train_with_peer(
            data.to(self.device, non_blocking=True),
            [scale.to(self.device, non_blocking=True) for scale in target]
            if isinstance(target, list)
            else target.to(self.device, non_blocking=True),
            Learner(self.network, self.optimizer),
            self.peer,
            self.loss,
            self.distil,
            self.grad_scaler,
        )
        self.pulls.append(losses.distillation)
        return {"loss": losses.supervised.cpu().numpy()}

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
            self._begin_round(round_number(*schedule))

    def on_train_end(self) -> None:
        """Stop the courier once nnU-Net has written its final checkpoint."""
        super().on_train_end()
        self.courier.stop()
        for message in self.courier.messages():
            self._say(message)
        self.mailbox.close()

    def save_checkpoint(self, filename: str) -> None:
        """A stock checkpoint, readable without this plugin, with our own state under one extra key."""
        part = Path(f"{filename}.part")
        super().save_checkpoint(str(part))
        if not part.exists():
            return
        checkpoint = torch.load(part, map_location="cpu", weights_only=False)
        checkpoint["trainer_name"] = nnUNetTrainer.__name__
        checkpoint["nnunet_gml"] = {
            "version": __version__,
            "trainer": type(self).__name__,
            "federation": self.site.federation.digest if self.site else None,
        }
        torch.save(checkpoint, part)
        part.replace(filename)

    def _begin_round(self, round_: int) -> None:
        site = self.mailbox.site
        peers = site.federation.peers_of(site.name)
        payload = self.mailbox.state / f".part-round-{round_}"
        try:
            dtype = weights.write(self.network, payload)
        except (weights.WeightsError, OSError) as error:
            self._say(f"round {round_}: nothing offered: {error}; training goes on without a peer")
            return
        peer = draw_peer(site.federation.seed, site.name, round_, peers)
        self._say(f"round {round_}: offering our weights, sending for those of site {peer}")
        self.courier.exchange(payload, self._facts(round_, dtype), peer)

    def _facts(self, round_: int, dtype: str) -> Facts:
        site = self.mailbox.site
        dice = self.logger.get_value("dice_per_class_or_region", step=-1)
        return Facts(
            round=round_,
            epoch=self.current_epoch,
            plans_digest=site.federation.plans_digest,
            schema_digest=weights.schema_digest(self.network),
            dtype=dtype,
            labelled=self._labelled_by(site.name),
            cases=len(gate.base_loader(self.dataloader_train).indices) if site.share_cases else None,
            dice={name: float(d) for name, d in zip(self.classes, dice, strict=True) if np.isfinite(d)}
            if site.share_dice
            else None,
        )

    def _receive(self, delivery: Delivery) -> None:
        """Check what a peer has sent; learn with it from now on, or put it into quarantine."""
        place = f"round {delivery.round}: weights of site {delivery.peer}"
        try:
            tensors = weights.read(delivery.payload, self.network, delivery.manifest.facts.dtype)
            self.mailbox.accept(delivery)
        except weights.WeightsError as error:
            self._say(
                f"{place} refused by rule {error.rule}: {error}; "
                "they go to quarantine, training goes on without a peer"
            )
            self._refuse(delivery, RejectedError(error.rule, str(error), hint=error.hint))
            return
        except (TransportError, OSError) as error:
            self._say(f"{place} cannot be taken in: {error}; training goes on without a peer")
            return
        weights.put(tensors, self.peer_network)
        self._meet(delivery)

    def _refuse(self, delivery: Delivery, error: RejectedError) -> None:
        try:
            self.mailbox.refuse(delivery, error)
        except TransportError as failure:
            self._say(f"quarantine: {failure}")

    def _meet(self, delivery: Delivery) -> None:
        """Score the peer against ourselves, and learn with it if it is trusted in any class."""
        facts = delivery.manifest.facts
        theirs, ours = self._score(self.peer_network), self._score(self.network)
        labelled = self._mask_of(self._labelled_by(delivery.peer))
        declared = torch.tensor([(facts.dice or {}).get(name, torch.nan) for name in self.classes])
        meeting = Meeting(
            delivery,
            self.current_epoch,
            self.classes,
            theirs,
            ours,
            trust=trust_per_class(theirs, ours, labelled, declared),
            weight=self.distillation_weight * min(1.0, delivery.round / self.ramp_rounds),
        )
        self.peer = self._learn_from(meeting, labelled) if meeting.is_useful else None
        self.peer_leaves_at = self.current_epoch + self.mutual_epochs
        meeting.append_to(Path(self.output_folder))
        self._say(meeting.sentence(self.mutual_epochs))

    def _learn_from(self, meeting: Meeting, labelled: Tensor) -> Peer:
        with self._as_network(self.peer_network):
            optimizer, self.peer_schedule = self.configure_optimizers()
        both = labelled & self._mask_of(self._labelled_by(self.mailbox.site.name))
        return Peer(
            learner=Learner(self.peer_network, optimizer),
            trust=meeting.trust.to(self.device),
            trust_in_us=trust_per_class(meeting.ours, meeting.theirs, both).to(self.device),
            labelled=both.to(self.device),
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

    def _copy_of_network(self) -> nn.Module:
        network = copy.deepcopy(weights.unwrap(self.network))
        if self._do_i_compile():
            network.compile()
        return network

    def _labelled_by(self, site: str) -> tuple[str, ...]:
        return labelled_by(self.mailbox.site.federation.member(site), self.classes)

    def _mask_of(self, labelled: tuple[str, ...]) -> Tensor:
        return torch.tensor([name in labelled for name in self.classes])

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
