"""What each round brought, written down for machines and for people."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from nnunet_gml.exchange import Arrival
from nnunet_gml.trust import Scores

FILE_NAME = "gml_rounds.jsonl"


@dataclass(frozen=True)
class Meeting:
    """A peer's weights, compared with ours on the gate's patches.

    Attributes:
        arrival: whose weights, and how like ours they are.
        epoch: our epochs done when it was taken in.
        classes: names of the foreground classes, in the order of the tensors below.
        theirs: the peer's scores.
        ours: our own scores on the same patches.
        trust: ``(C,)``, how far the peer is believed.
        weight: λ of this round.
    """

    arrival: Arrival
    epoch: int
    classes: tuple[str, ...]
    theirs: Scores
    ours: Scores
    trust: Tensor
    weight: float

    @property
    def is_useful(self) -> bool:
        """Whether the peer is trusted in any class."""
        return bool(self.trust.any())

    def append_to(self, folder: Path) -> None:
        """Add one JSON line to gml_rounds.jsonl, beside nnU-Net's training log."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "round": self.arrival.delivery.round,
            "epoch": self.epoch,
            "peer": self.arrival.delivery.peer,
            "sequence": self.arrival.delivery.manifest.sequence,
            "distance": round(self.arrival.likeness.distance, 4),
            "cosine": round(self.arrival.likeness.cosine, 4),
            "used": self.is_useful,
            "weight": self.weight,
            "classes": self.classes,
            "trust": _numbers(self.trust),
            "dice_peer": _numbers(self.theirs.dice),
            "dice_ours": _numbers(self.ours.dice),
        }
        with (folder / FILE_NAME).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def sentence(self, epochs: int) -> str:
        """The same for the training log."""
        believed = ", ".join(f"{c} {t:.2f}" for c, t in zip(self.classes, self.trust.tolist(), strict=True))
        verdict = (
            f"learning with it for {epochs} epochs, λ = {self.weight:.2f}"
            if self.is_useful
            else "trusted in no class, so it is not used in this round"
        )
        delivery = self.arrival.delivery
        return (
            f"round {delivery.round}: weights of site {delivery.peer} are here (mean Dice on our "
            f"patches {self.theirs.mean:.3f}, ours {self.ours.mean:.3f}); trust: {believed}; {verdict}"
        )


def _numbers(values: Tensor) -> list[float | None]:
    """Numbers for JSON, which knows no nan."""
    return [round(value, 4) if value == value else None for value in values.tolist()]
