"""nnU-Net's own training log, read back epoch by epoch: also while it is written, also of stock runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunet_gml.explanation import mean

NAN = math.nan
LINE = re.compile(
    r"^(?:\S+ \S+: )?(?:Epoch (?P<epoch>\d+)|train_loss (?P<train>\S+)|val_loss (?P<val>\S+)"
    r"|Pseudo dice \[(?P<dice>.*)\]|Epoch time: (?P<seconds>\S+) s)\s*$"
)
TYPE = re.compile(r"np\.float\d+\(|\)")


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training; nan where its log does not say.

    Attributes:
        number: from 0.
        train_loss, val_loss: nnU-Net's.
        dice: nnU-Net's pseudo Dice on random validation patches, per class; nan for a class without contours.
        seconds: from its beginning to its end.
    """

    number: int
    train_loss: float = NAN
    val_loss: float = NAN
    dice: tuple[float, ...] = ()
    seconds: float = NAN

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that have a number; nan without any."""
        return mean(self.dice)


def read_epochs(fold: Path) -> list[Epoch]:
    """The epochs that are over, from all logs of one fold; what ``--c`` did again counts once, as last done.

    Empty without a log.
    """
    epochs: dict[int, Epoch] = {}
    for log in training_logs(fold):
        for epoch in _epochs_of(log):
            while next(reversed(epochs), -1) >= epoch.number:
                epochs.popitem()
            epochs[epoch.number] = epoch
    return list(epochs.values())


def training_logs(fold: Path) -> list[Path]:
    """nnU-Net's logs in a fold's folder, oldest first: their names hold the time, without leading zeros."""
    return sorted(
        fold.glob("training_log_*.txt"), key=lambda path: [*map(int, re.findall(r"\d+", path.name))]
    )


def planned_epochs(fold: Path) -> int | None:
    """How many epochs the training of a fold is to have, from nnU-Net's debug.json; None if unknown."""
    try:
        content = json.loads((fold / "debug.json").read_text())
        return int(content["num_epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _epochs_of(log: Path) -> Iterator[Epoch]:
    """An epoch is over when its time is written."""
    facts: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if match := LINE.match(line):
            found = {name: text for name, text in match.groupdict().items() if text is not None}
            facts = found if "epoch" in found else facts | found
            if "seconds" in found and "epoch" in facts:
                yield _epoch(facts)


def _epoch(facts: dict[str, str]) -> Epoch:
    dice = TYPE.sub("", facts.get("dice", "")).split(",")
    return Epoch(
        number=int(facts["epoch"]),
        train_loss=_number(facts.get("train", "")),
        val_loss=_number(facts.get("val", "")),
        dice=tuple(_number(text) for text in dice if text.strip()),
        seconds=_number(facts["seconds"]),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return NAN
