"""What each round brought, written down for machines and for people."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_gml.exchange import Arrival
from nnunet_gml.explanation import ROUNDS_FILE
from nnunet_gml.mutual import StepReport
from nnunet_gml.trust import Scores
from peer_sync.storage import missing_line_end


@dataclass(frozen=True)
class Meeting:
    """A peer's weights, compared with ours on the gate's patches.

    Attributes:
        peer: whose weights.
        round: our round in which they came.
        sequence: the number of the peer's offer.
        distance: norm of the difference to our weights, relative to the norm of ours.
        cosine: of the angle between its weights and ours.
        epoch: our epochs done when it was taken in.
        classes: names of the foreground classes, in the order of the tensors below.
        theirs: the peer's scores.
        ours: our own scores on the same patches.
        trust: ``(C,)``, how far the peer is believed.
        weight: λ of this round.
    """

    peer: str
    round: int
    sequence: int
    distance: float
    cosine: float
    epoch: int
    classes: tuple[str, ...]
    theirs: Scores
    ours: Scores
    trust: Tensor
    weight: float

    @classmethod
    def of(cls, arrival: Arrival, **facts: Any) -> "Meeting":  # noqa: ANN401 - the other fields
        """The meeting with what has arrived."""
        delivery, (distance, cosine) = arrival.delivery, arrival.likeness
        sequence = delivery.manifest.sequence
        return cls(delivery.peer, delivery.round, sequence, distance, cosine, **facts)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Meeting":
        """The reverse of ``dataclasses.asdict``."""
        scores = {name: Scores(**fields[name]) for name in ("theirs", "ours")}
        return cls(**{**fields, **scores})

    @property
    def is_useful(self) -> bool:
        """Whether the peer is trusted in any class."""
        return bool(self.trust.any())

    def append_to(self, folder: Path) -> None:
        """Add one JSON line to gml_rounds.jsonl, beside nnU-Net's training log. Raises OSError."""
        _append(
            folder,
            "met",
            self,
            distance=round(self.distance, 4),
            cosine=round(self.cosine, 4),
            used=self.is_useful,
            weight=self.weight,
            classes=self.classes,
            trust=_numbers(self.trust),
            dice_peer=_numbers(self.theirs.dice),
            dice_ours=_numbers(self.ours.dice),
        )

    def sentence(self, epochs: int) -> str:
        """The same for the training log."""
        believed = ", ".join(f"{c} {t:.2f}" for c, t in zip(self.classes, self.trust.tolist(), strict=True))
        verdict = (
            f"learning with it for {epochs} epochs, λ = {self.weight:.2f}"
            if self.is_useful
            else "trusted in no class, so it is not used in this round"
        )
        return (
            f"round {self.round}: weights of site {self.peer} are here (mean Dice on our "
            f"patches {self.theirs.mean:.3f}, ours {self.ours.mean:.3f}); trust: {believed}; {verdict}"
        )


@dataclass
class Stay:
    """What the steps with a peer were like, summed up.

    Attributes:
        mask_voxels: ``(C,)``, voxels in each class's mask.
        epochs: epochs that were begun with the peer.
        steps: steps taken with it.
        steps_of_epoch: those of this epoch.
        nats: sum over the steps of the distillation loss before its weight.
        nats_of_epoch: those of this epoch.
        ratios: once an epoch the pull of the peer relative to that of the labels (rho).
        seen_voxels: all voxels of the batches.
    """

    mask_voxels: Tensor
    epochs: int = 0
    steps: int = 0
    steps_of_epoch: int = 0
    nats: float | Tensor = 0.0
    nats_of_epoch: float | Tensor = 0.0
    ratios: tuple[float, ...] = ()
    seen_voxels: int = 0

    def begin_epoch(self) -> None:
        """Count an epoch."""
        self.epochs += 1
        self.steps_of_epoch, self.nats_of_epoch = 0, 0.0

    def add(self, report: StepReport, voxels: int) -> None:
        """Count a step; nothing here waits for the GPU but once an epoch."""
        if self.steps_of_epoch == 0:
            self.ratios = (*self.ratios, float(report.ratio))
        self.steps += 1
        self.steps_of_epoch += 1
        self.nats = self.nats + report.distillation
        self.nats_of_epoch = self.nats_of_epoch + report.distillation
        self.mask_voxels = self.mask_voxels.to(report.voxels.device) + report.voxels
        self.seen_voxels += voxels

    def mask_share(self) -> Tensor:
        """``(C,)``: voxels in each class's mask, relative to all."""
        return self.mask_voxels.cpu() / max(1, self.seen_voxels)

    def mean_ratio(self) -> float:
        """Mean pull relative to the labels' over the epochs in which it is finite; nan when there is none."""
        ratios = torch.tensor(self.ratios)
        return float(ratios[ratios.isfinite()].mean())

    def sentence(self) -> str:
        """The last epoch, for the training log."""
        mean = float(self.nats_of_epoch) / max(1, self.steps_of_epoch)
        ratio = self.ratios[-1] if self.ratios else float("nan")
        return f"distillation {mean:.4f} nats, mean over the epoch; its pull is {ratio:.3f} of the labels'"


@dataclass(frozen=True)
class Parting:
    """A peer leaves.

    Attributes:
        meeting: how it came.
        stay: the steps with it.
        epoch: our epochs done.
        theirs: the peer's scores now, on the gate's patches.
        ours: our own, before anything is merged.
        merged: of what our network is from now on, by which the share was chosen.
        share: share of the peer's weights that we took over, 0 to 1.
    """

    meeting: Meeting
    stay: Stay
    epoch: int
    theirs: Scores
    ours: Scores
    merged: Scores
    share: float

    def append_to(self, folder: Path) -> None:
        """Add one JSON line to gml_rounds.jsonl. Raises OSError."""
        _append(
            folder,
            "left",
            self.meeting,
            epoch=self.epoch,
            epochs=self.stay.epochs,
            ratio=_numbers(torch.tensor([self.stay.mean_ratio()]))[0],
            distillation=round(float(self.stay.nats) / max(1, self.stay.steps), 6),
            mask_share=_numbers(self.stay.mask_share(), 6),
            dice_peer=_numbers(self.theirs.dice),
            dice_ours=_numbers(self.ours.dice),
            dice_merged=_numbers(self.merged.dice),
            merged=round(self.share, 4),
        )

    def sentence(self) -> str:
        """The same for the training log."""
        taken = f", {self.merged.mean:.3f} with {self.share:.0%} of its weights" if self.share else ""
        return (
            f"round {self.meeting.round}: site {self.meeting.peer} leaves after {self.stay.epochs} epochs; "
            f"mean Dice on our patches {self.meeting.ours.mean:.3f} before, {self.ours.mean:.3f} now{taken}"
        )


def write_average(folder: Path, arrival: Arrival, epoch: int, share: float) -> None:
    """Add a line about weights that went into an average, with their share. Raises OSError."""
    delivery, (distance, cosine) = arrival.delivery, arrival.likeness
    where = {"round": delivery.round, "epoch": epoch, "peer": delivery.peer}
    likeness = {"distance": round(distance, 4), "cosine": round(cosine, 4)}
    _write(
        folder,
        event="averaged",
        **where,
        sequence=delivery.manifest.sequence,
        peer_round=delivery.manifest.round,
        **likeness,
        merged=round(share, 4),
    )


def _append(folder: Path, event: str, meeting: Meeting, **facts: Any) -> None:  # noqa: ANN401 - JSON values
    where = {"round": meeting.round, "epoch": meeting.epoch, "peer": meeting.peer}
    _write(folder, **{"event": event, **where, "sequence": meeting.sequence, **facts})


def _write(folder: Path, **facts: Any) -> None:  # noqa: ANN401 - JSON values
    record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
    with (folder / ROUNDS_FILE).open("a+b") as file:
        file.write(missing_line_end(file) + json.dumps(record).encode() + b"\n")


def _numbers(values: Tensor, digits: int = 4) -> list[float | None]:
    """Numbers for JSON, which knows neither nan nor infinity."""
    return [round(value, digits) if math.isfinite(value) else None for value in values.tolist()]
