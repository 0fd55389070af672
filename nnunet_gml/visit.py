"""A peer's stay: its network beside ours, what it is believed in, until when, and how it is kept."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_gml import weights
from nnunet_gml.learners import Learner, Peer
from nnunet_gml.rounds import Meeting, Stay
from nnunet_gml.trust import trust_per_class


@dataclass
class Visit:
    """A peer while we learn with it.

    Attributes:
        meeting: how it came.
        peer: its network and what it is believed in.
        schedule: of its learning rate, nnU-Net's own.
        leaves_at: epoch before which it is dropped.
        stay: the steps so far.
    """

    meeting: Meeting
    peer: Peer
    schedule: Any
    leaves_at: int
    stay: Stay

    def begin_epoch(self, epoch: int) -> None:
        """Put its network into training if it learns, with this epoch's learning rate."""
        self.peer.learner.network.train(self.peer.learns)
        self.schedule.step(epoch)
        self.stay.begin_epoch()

    def state(self) -> dict[str, Any]:
        """Everything that `take_up` needs, for nnU-Net's checkpoint of a training under way."""
        learner = self.peer.learner
        tensors = weights.named_tensors(learner.network)
        return {
            "weights": {name: tensor.cpu().clone() for name, tensor in tensors.items()},
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.scaler and learner.scaler.state_dict(),
            "damping": self.peer.damping,
            "meeting": asdict(self.meeting),
            "leaves_at": self.leaves_at,
            "stay": asdict(self.stay),
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """Continue, after ``--c``, with a visit that was built anew from the same meeting."""
        learner = self.peer.learner
        weights.put(state["weights"], learner.network)
        learner.optimizer.load_state_dict(state["optimizer"])
        if learner.scaler is not None and state["scaler"]:
            learner.scaler.load_state_dict(state["scaler"])
        self.peer.damping = state["damping"]
        self.leaves_at, self.stay = state["leaves_at"], Stay(**state["stay"])


def peer_of(
    meeting: Meeting,
    learner: Learner,
    labelled_here: Tensor,
    labelled_there: Tensor,
    uses_trust: bool,
    learns: bool,
) -> Peer:
    """The peer of a meeting, as `nnunet_gml.mutual` wants it.

    Args:
        meeting: how it came, with the trust in it.
        learner: its network, with an optimiser.
        labelled_here: ``(C,)``, bool, the classes that we contour.
        labelled_there: ``(C,)``, bool, those that its site contours.
        uses_trust: False: it believes us in all classes that both contour.
        learns: whether its network learns too.
    """
    both = labelled_here & labelled_there
    trust_in_us = trust_per_class(meeting.ours, meeting.theirs, both) if uses_trust else both.float()
    device = next(learner.network.parameters()).device
    return Peer(
        learner=learner,
        trust=meeting.trust.to(device),
        trust_in_us=trust_in_us.to(device),
        labelled=both.to(device),
        missing=(labelled_there & ~labelled_here).to(device),
        weight=meeting.weight,
        learns=learns,
    )


def scaler_like(ours: torch.amp.GradScaler | None, device: torch.device) -> torch.amp.GradScaler | None:
    """A gradient scaler of the peer's own, beginning where ours is; None where we have none."""
    return ours and torch.amp.GradScaler(device.type, init_scale=ours.get_scale())


def fresh(scaler: torch.amp.GradScaler | None, device: torch.device) -> torch.amp.GradScaler | None:
    """The same gradient scaler without what it remembers of a step that was broken off."""
    if scaler is None:
        return None
    other = torch.amp.GradScaler(device.type)
    other.load_state_dict(scaler.state_dict())
    return other
