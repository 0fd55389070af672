"""Gossip mutual learning: between nnU-Net's epochs a peer's network comes, and both learn on local data."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_gml import merging, weights
from nnunet_gml.distillation import ClassWiseDistillation, MaskKind
from nnunet_gml.exchange import Arrival
from nnunet_gml.judging import JudgingTrainer
from nnunet_gml.learners import Learner, Method
from nnunet_gml.merging import MergeKind
from nnunet_gml.mutual import PeerTooLargeError, StepReport, train_with_peer
from nnunet_gml.outputs import moved
from nnunet_gml.rounds import Meeting, Parting, Stay
from nnunet_gml.trainer import LATEST
from nnunet_gml.trust import Scores
from nnunet_gml.visit import Visit, fresh, peer_of, scaler_like


class GossipTrainer(JudgingTrainer):
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
    contrast_weight: float = 0.0
    """μ, how much the voxels count in which the peer is wrong; 0 leaves them out."""
    distils_all_heads: bool = False
    """Compare all outputs of nnU-Net's deep supervision, not only the full resolution."""
    peer_learns: bool = True
    """Mutual learning; False: the peer's network is frozen and only teaches."""
    low_memory: bool = False
    """Train the two networks one after the other in each step: less memory, one more forward pass."""
    mutual_epochs: int = 5
    merge: MergeKind = "lean"
    """What becomes of the peer's weights when it leaves."""

    visit: Visit | None = None
    """The peer that is here."""

    def prepare(self) -> None:
        """Make room for a peer, and take up the one that ``--c`` left."""
        super().prepare()
        self.peer_network = self._room_for_a_peer()
        self.method = Method(
            supervise=self.loss,
            distil=ClassWiseDistillation(
                has_regions=self.label_manager.has_regions,
                ignore_label=self.label_manager.ignore_label,
                mask=self.mask,
                temperature=self.temperature,
                contrast_weight=self.contrast_weight,
            ),
            head_weights=self.deep_supervision_weights if self.distils_all_heads else (1.0,),
            in_two_passes=self.low_memory,
        )
        self._take_up(self.restored.pop("visit", None))

    def on_epoch_start(self) -> None:
        """Let the last peer go when its epochs are over, and take in a new one if its weights are here."""
        if self.visit is not None and self.current_epoch >= self.visit.leaves_at:
            self.let_peer_go(self.merge)
        arrival = self.receive()
        if arrival is not None:
            self.let_peer_go(self.merge)
            weights.put(arrival.tensors, self.peer_network)
            self._meet(arrival)
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        """A peer follows nnU-Net's learning rate."""
        super().on_train_epoch_start()
        if self.visit is not None:
            self.visit.begin_epoch(self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Stock nnU-Net's step, or one of two networks while a peer is here."""
        while self.visit is not None:
            report = self._train_step_with(self.visit, batch)
            if report is not None:
                return {"loss": report.supervised.cpu().numpy()}
            torch.cuda.empty_cache()
        step: dict[str, Any] = super().train_step(batch)
        return step

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log how far the peer pulled, beside nnU-Net's training loss."""
        super().on_train_epoch_end(train_outputs)
        if self.visit is not None:
            self.say(self.visit.stay.sentence())

    def on_train_end(self) -> None:
        """A peer that is still here leaves no trace in the final checkpoint."""
        self.let_peer_go("none")
        super().on_train_end()
        del self.peer_network

    def state(self, filename: str) -> dict[str, Any]:
        """Also the peer that is here, in the latest checkpoint."""
        state = super().state(filename)
        if self.visit is not None and filename == LATEST:
            state["visit"] = self.visit.state()
        return state

    def federation_changed(self) -> None:
        """A site that was taken out is not learnt from any longer, and none of its weights are merged."""
        super().federation_changed()
        if self.visit is not None and not self.is_peer(self.visit.meeting.peer):
            self.say(f"site {self.visit.meeting.peer} was taken out of federation.toml, so it leaves now")
            self.let_peer_go("none")

    def let_peer_go(self, merge: MergeKind) -> None:
        """Score both networks once more, merge if asked to, write it down, and drop the peer."""
        if self.visit is None:
            return
        visit, self.visit = self.visit, None
        self.peer_network.zero_grad(set_to_none=True)
        theirs, ours = self.score(self.peer_network), self.score(self.network)
        share, merged = merging.merge(
            merge if self.has_what_we_learnt(visit.peer) else "none",
            self.network,
            self.peer_network,
            self.optimizer,
            theirs,
            ours,
            lambda: self.score(self.network),
            self.names_to_keep(),
        )
        parting = Parting(visit.meeting, visit.stay, self.current_epoch, theirs, ours, merged, share)
        self.say(parting.sentence())
        self.write_down(parting.append_to)

    def _room_for_a_peer(self) -> nn.Module:
        network = copy.deepcopy(weights.unwrap(self.network))
        if self._do_i_compile():
            network.compile()
        if self.is_ddp and self.peer_learns:
            places = [self.local_rank] if self.device.type == "cuda" else None
            return DistributedDataParallel(network, device_ids=places)
        return network

    def _train_step_with(self, visit: Visit, batch: dict[str, Any]) -> StepReport | None:
        """One step of two networks; None where memory was too small for it and ours is still to do."""
        try:
            report = self._two_network_step(visit, batch)
        except (torch.OutOfMemoryError, PeerTooLargeError) as error:
            if self.is_ddp:  # the other GPUs are in the middle of this step
                raise
            self._save_memory()
            return error.report if isinstance(error, PeerTooLargeError) else None
        if visit.stay.steps_of_epoch == 0:
            visit.peer.damping = self.ranks.share(visit.peer.damping)
        visit.stay.add(report, batch["data"][:, 0].numel())
        return report

    def _two_network_step(self, visit: Visit, batch: dict[str, Any]) -> StepReport:
        return train_with_peer(
            batch["data"].to(self.device, non_blocking=True),
            moved(batch["target"], self.device),
            Learner(self.network, self.optimizer, self.grad_scaler),
            visit.peer,
            self.method,
            measure=visit.stay.steps_of_epoch == 0,
            agree=self.ranks.all_agree,
        )

    def _save_memory(self) -> None:
        """Memory ran out: take two passes from now on, or if that is not enough, do without this peer."""
        self.grad_scaler = fresh(self.grad_scaler, self.device)
        if not self.method.in_two_passes:
            self.method = replace(self.method, in_two_passes=True)
            self.say(
                "the GPU's memory is too small for two networks at once: from now on each step trains one "
                "after the other, which takes longer"
            )
            return
        self.say(
            "the GPU's memory is too small for two networks: this step and the rest of the round "
            "go on without the peer; nnUNetTrainerGMLFrozen needs less"
        )
        visit, self.visit = self.visit, None
        self.peer_network.zero_grad(set_to_none=True)
        if visit is not None:
            nothing = Scores.unknown(len(self.classes))
            parting = Parting(visit.meeting, visit.stay, self.current_epoch, nothing, nothing, nothing, 0.0)
            self.write_down(parting.append_to)

    def _meet(self, arrival: Arrival) -> None:
        """Score the peer against ourselves, and learn with it if it is trusted in any class."""
        ramp = min(1.0, arrival.delivery.round / max(1, self.ramp_rounds))
        meeting = self.judge(arrival, self.peer_network, self.distillation_weight * ramp)
        self.say(meeting.sentence(self.mutual_epochs))
        if self.ranks.is_first:
            self.exchange.met(arrival, float(meeting.trust.mean()))
        self.write_down(meeting.append_to)
        if meeting.is_useful:
            self.visit = self._visit(meeting)
            self.let_hide(self.visit.peer.missing.cpu() & (meeting.trust > 0))
        self.save_latest()

    def _visit(self, meeting: Meeting) -> Visit:
        with self.as_network(self.peer_network):
            optimizer, schedule = self.configure_optimizers()
        learner = Learner(self.peer_network, optimizer, scaler_like(self.grad_scaler, self.device))
        labelled = self.labelled_here, self.labelled_at(meeting.peer)
        peer = peer_of(meeting, learner, *labelled, self.uses_trust, self.peer_learns)
        leaves_at = meeting.epoch + self.mutual_epochs
        return Visit(
            meeting, peer, schedule, leaves_at, Stay(torch.zeros(len(self.classes), dtype=torch.int64))
        )

    def _take_up(self, state: dict[str, Any] | None) -> None:
        """Continue, after ``--c``, with the peer that was here."""
        if state is None:
            return
        meeting = Meeting.from_dict(state["meeting"])
        if not self.is_peer(meeting.peer):
            self.say(f"site {meeting.peer} was taken out of federation.toml: continued without it")
            return
        self.visit = self._visit(meeting)
        self.visit.take_up(state)
        self.say(f"continued with site {meeting.peer}, until epoch {self.visit.leaves_at}")


class FrozenGossipTrainer(GossipTrainer):
    """The peer's network only teaches: one more forward pass a step instead of a second training."""

    peer_learns = False


class ContrastiveGossipTrainer(GossipTrainer):
    """Mutual learning that also learns where the peer is wrong: away from its error, towards the label.

    After the deep contrastive mutual learning of Chen and Yuan (arXiv:2503.03883); the formulas are ours.
    """

    contrast_weight = 0.5
