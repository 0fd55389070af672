"""What a finished run's list of rounds says: one record for each time a peer's weights were used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peer_sync.errors import ConfigError

ROUNDS_FILE = "gml_rounds.jsonl"
FOLD_EXAMPLE = "$nnUNet_results/DatasetXXX_Name/nnUNetTrainerGML__nnUNetPlans__3d_fullres/fold_0"
"""Where nnU-Net puts a fold; for hints."""
NAN = math.nan


@dataclass(frozen=True)
class Round:
    """A peer's weights in one round of one training; what was not measured is nan or empty.

    Attributes:
        number: our round.
        epoch: our epochs done when they came.
        peer: whose weights.
        used: whether it was trusted in any class, or averaged.
        weight: λ.
        ratio: mean pull relative to the labels' (rho of METHOD 9.3), once an epoch.
        epochs: epochs with the peer.
        merged: share of the peer's weights that was taken over.
        classes: names of the classes, for the lists below.
        trust: per class, 0 to 1.
        mask_share: per class, voxels in its mask relative to all.
        dice_peer: the peer's Dice per class on our fixed patches when it came.
        dice_before: ours, then.
        dice_after: ours when the peer left, before anything of it was taken over.
        dice_merged: ours from then on.
    """

    number: int
    epoch: int
    peer: str
    used: bool
    weight: float
    ratio: float
    epochs: int
    merged: float
    classes: tuple[str, ...]
    trust: tuple[float, ...]
    mask_share: tuple[float, ...]
    dice_peer: tuple[float, ...]
    dice_before: tuple[float, ...]
    dice_after: tuple[float, ...]
    dice_merged: tuple[float, ...]

    @property
    def dice_of_stages(self) -> tuple[tuple[float, ...], ...]:
        """Per class: ours before, after and merged, and the peer's."""
        return self.dice_before, self.dice_after, self.dice_merged, self.dice_peer

    @property
    def gain(self) -> tuple[float, ...]:
        """Dice per class after, less before; the epochs of training themselves are in it."""
        return tuple(after - before for before, after in zip(self.dice_before, self.dice_after, strict=True))


def mean(values: Iterable[float]) -> float:
    """Mean of the numbers that are none of them nan; nan when there is none."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else NAN


def find_runs(folder: Path) -> list[Path]:
    """The folders below ``folder``, itself included, that hold a list of rounds.

    Raises:
        ConfigError: there is none.
    """
    runs = sorted(path.parent for path in folder.rglob(ROUNDS_FILE))
    if not runs:
        raise ConfigError(
            f"no {ROUNDS_FILE} in or below {folder}",
            f"name a fold's output folder, such as {FOLD_EXAMPLE}; "
            "the file is written when the first peer's weights are taken in",
        )
    return runs


def read_records(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's list of rounds that name a round and a peer; none, without the list.

    A line that a killed process left half is skipped.
    """
    path = run / ROUNDS_FILE
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            yield {**record, "round": int(record["round"]), "peer": str(record["peer"])}
        except (ValueError, KeyError, TypeError):
            continue


def read_rounds(run: Path) -> list[Round]:
    """All rounds of one run in order; of a round that was begun again, its last beginning."""
    met: dict[tuple[int, str], dict[str, Any]] = {}
    left: dict[tuple[int, str], dict[str, Any]] = {}
    for record in read_records(run):
        key = (record["round"], record["peer"])
        if record.get("event") == "left":
            left[key] = record
        else:
            met[key] = record
            left.pop(key, None)
    return [_round(record, left.get(key, {})) for key, record in sorted(met.items())]


def _round(met: dict[str, Any], left: dict[str, Any]) -> Round:
    classes = tuple(met.get("classes", ()))

    def numbers(record: dict[str, Any], name: str) -> tuple[float, ...]:
        return tuple(map(_number, record.get(name) or [None] * len(classes)))

    return Round(
        number=met["round"],
        epoch=met["epoch"],
        peer=met["peer"],
        used=met.get("used", True),
        weight=_number(met.get("weight")),
        ratio=_number(left.get("ratio")),
        epochs=left.get("epochs", 0),
        merged=left.get("merged", met.get("merged", 0.0)),
        classes=classes,
        trust=numbers(met, "trust"),
        mask_share=numbers(left, "mask_share"),
        dice_peer=numbers(met, "dice_peer"),
        dice_before=numbers(met, "dice_ours"),
        dice_after=numbers(left, "dice_ours"),
        dice_merged=numbers(left, "dice_merged"),
    )


def mean_trust(rounds: Sequence[Round]) -> dict[str, tuple[float, ...]]:
    """Mean trust per class in each peer, over all rounds with it."""
    peers = sorted({round_.peer for round_ in rounds if round_.trust})
    return {
        peer: tuple(
            mean(column)
            for column in zip(*(r.trust for r in rounds if r.peer == peer and r.trust), strict=True)
        )
        for peer in peers
    }


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)
