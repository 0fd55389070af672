"""What a peer is worth here: Dice on fixed local validation patches, and trust per class from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_gml import gate
from nnunet_gml.exchange import Arrival
from nnunet_gml.learners import Peer
from nnunet_gml.rounds import Meeting
from nnunet_gml.trainer import FederatedTrainer
from nnunet_gml.trust import Scores, TrustMemory, trust_per_class


class JudgingTrainer(FederatedTrainer):
    """nnU-Net that compares a peer's network with its own before it believes it.

    The patches are chosen once per run, the same for both networks; the checkpoint keeps their digest, not
    the patches. Trust is smoothed over the meetings with the same peer.
    """

    uses_trust: bool = True
    """False: a peer is fully believed in every class that both sites contour."""
    trust_smoothing: float = 0.5
    """Weight of earlier meetings with the same peer in the trust per class."""
    gate_batches: int = 8
    """Validation batches on which both networks are compared; chosen once."""

    def prepare(self) -> None:
        """Choose the validation patches of the run; take up the trust that ``--c`` left."""
        super().prepare()
        seed = (self.own_site.federation.seed, self.own_site.name, "gate")
        self.gate_list = gate.fixed_batches(self.dataloader_val, self.gate_batches, *seed)
        self.gate_digest = gate.digest(self.gate_list)
        if self.restored.get("gate", self.gate_digest) != self.gate_digest:
            self.say("the fixed validation patches are not those of before: data, split or seed has changed")
        self.trust_memory = TrustMemory(self.trust_smoothing)
        self.trust_memory.restore(self.restored.get("trust", {}))

    def on_train_end(self) -> None:
        """The patches are not needed any longer."""
        super().on_train_end()
        del self.gate_list

    def state(self, filename: str) -> dict[str, Any]:
        """Also the trust in each peer, and what the peers are compared on."""
        return {**super().state(filename), "trust": self.trust_memory.state(), "gate": self.gate_digest}

    def score(self, network: nn.Module) -> Scores:
        """Dice on the fixed patches; a class that is not contoured here is not present in them."""
        with self.as_network(network):
            found = gate.score(network, self.gate_list, self.validation_step)
        scores: Scores = self.ranks.share(Scores(found.dice, found.is_present & self.labelled_here))
        return scores

    def judge(self, arrival: Arrival, network: nn.Module, weight: float) -> Meeting:
        """A peer that has just come against ourselves.

        Args:
            arrival: how it came.
            network: with its weights.
            weight: how much its pull is to count (λ).
        """
        theirs, ours = self.score(network), self.score(self.network)
        return Meeting.of(
            arrival,
            epoch=self.current_epoch,
            classes=self.classes,
            theirs=theirs,
            ours=ours,
            trust=self.trust_in(arrival, theirs, ours),
            weight=weight,
        )

    def trust_in(self, arrival: Arrival, theirs: Scores, ours: Scores) -> Tensor:
        """``(C,)``, 0 to 1: how far a peer that has just come is believed in each class."""
        peer = arrival.delivery.peer
        if not self.uses_trust:
            return self.labelled_at(peer).float()
        stated = arrival.delivery.manifest.dice or {}
        declared = torch.tensor([stated.get(name, torch.nan) for name in self.classes])
        trust = trust_per_class(theirs, ours, self.labelled_at(peer), declared)
        smoothed: Tensor = self.ranks.share(self.trust_memory.smoothed(peer, trust))
        return smoothed

    def has_what_we_learnt(self, peer: Peer) -> bool:
        """Its weights cannot cost us a class that others have taught us, whose Dice we cannot measure."""
        return not bool((self.learnt_from_others & ~peer.missing.cpu()).any())

    @contextmanager
    def as_network(self, network: nn.Module) -> Iterator[None]:
        """Let nnU-Net's own methods act on another network for a moment."""
        own, self.network = self.network, network
        try:
            yield
        finally:
            self.network = own
