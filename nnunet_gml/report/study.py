"""What a report is about, read once: scores, trainings, exchanges, and how it all was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_gml.explanation import Round, read_rounds
from nnunet_gml.json_files import read_json
from nnunet_gml.palette import SERIES
from nnunet_gml.training_log import Epoch, read_epochs
from peer_sync.entries import Entry, collected_bytes, read_entries
from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from nnunet_gml.comparison.predicted import Predicted
    from nnunet_gml.comparison.summary import Summary
    from peer_sync.site import Site

INK = "var(--ink)"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Training:
    """One site's training with one method, as its files tell it; empty where there are none."""

    epochs: Sequence[Epoch]
    rounds: Sequence[Round]
    entries: Sequence[Entry]
    broken_lines: int
    has_ledger: bool

    @property
    def seconds(self) -> float:
        """In epochs; nan without a log."""
        known = [each.seconds for each in self.epochs if not math.isnan(each.seconds)]
        return sum(known) if known else math.nan

    @property
    def fetched_bytes(self) -> float:
        """All that was fetched from peers, refused offers and broken transfers too; nan without a ledger."""
        if not self.has_ledger:
            return math.nan
        return float(collected_bytes(self.entries))


@dataclass(frozen=True)
class Study:
    """Everything that the sections draw on.

    Attributes:
        predicted: what was compared, every site's own networks.
        scores: one row per site, arm, case and class.
        summary: what is made of them.
        command: that made the report.
        asked_focus: the method to look at closely; empty: chosen here.
        site: at which the report is made, if it is one of a federation.
    """

    predicted: Sequence[Predicted]
    scores: pd.DataFrame
    summary: Summary
    command: str
    asked_focus: str = ""
    site: Site | None = None

    @cached_property
    def arms(self) -> list[str]:
        """All methods; the baseline first."""
        named = [str(arm) for arm in self.summary.arms["arm"]]
        return sorted(named, key=lambda arm: arm != self.baseline)

    @property
    def baseline(self) -> str:
        """What gains are measured against."""
        return self.summary.baseline

    @cached_property
    def sites(self) -> list[str]:
        """All sites in the order in which they were given."""
        return list(dict.fromkeys(each.site for each in self.predicted))

    @cached_property
    def classes(self) -> list[str]:
        """All classes in the order of the scores."""
        return [str(name) for name in self.scores["class"].unique()]

    @cached_property
    def by_class_and_arm(self) -> Mapping[tuple[str, str], pd.DataFrame]:
        """The scores, put into groups once."""
        return {(str(name), str(arm)): part for (name, arm), part in self.scores.groupby(["class", "arm"])}

    @cached_property
    def trainings(self) -> Mapping[tuple[str, str], Training]:
        """By site and arm; of several folds one that has files."""
        ordered = sorted(self.predicted, key=lambda each: each.training is not None)
        best = {(each.site, each.arm): each for each in ordered}
        return {key: _training(each.training, each.mail) for key, each in best.items()}

    @property
    def ordered(self) -> dict[tuple[str, str], Training]:
        """All trainings, site by site, in the order of the methods."""
        keys = [(site, arm) for site in self.sites for arm in self.arms]
        return {key: self.trainings[key] for key in keys if key in self.trainings}

    def of_arm(self, arm: str) -> dict[str, Training]:
        """One method's trainings by site."""
        return {site: self.trainings[site, arm] for site in self.sites if (site, arm) in self.trainings}

    @cached_property
    def focus(self) -> str:
        """The method looked at closely: of the candidates the one with the highest mean Dice.

        That choice is made after seeing the results, and the report says so.
        """
        return self.asked_focus if self.asked_focus in self.arms else max(self.candidates, key=self.dice)

    @cached_property
    def candidates(self) -> list[str]:
        """The methods that score their peers class by class; where there are none, all but the baseline."""
        others = [arm for arm in self.arms if arm != self.baseline] or self.arms
        return [arm for arm in others if self.scores_peers(arm)] or others

    @property
    def has_learners(self) -> bool:
        """Whether any method scores its peers."""
        return any(map(self.scores_peers, self.arms))

    def scores_peers(self, arm: str) -> bool:
        """Whether a peer's network was ever compared class by class with this method."""
        return any(each.classes for training in self.of_arm(arm).values() for each in training.rounds)

    def dice(self, arm: str) -> float:
        """Mean Dice of a method; below every number where it is not known."""
        value = self.arm_row(arm)["dice"]
        return -math.inf if math.isnan(value) else value

    def arm_row(self, arm: str) -> Row:
        """One method's line of the summary."""
        return row_of(self.summary.arms, arm=arm)

    def place(self, arm: str) -> int:
        """The method's number; it chooses colour and mark."""
        return self.arms.index(arm)

    def colour(self, arm: str) -> str:
        """The baseline is ink, the others have the palette's colours in turn."""
        place = self.place(arm)
        return INK if arm == self.baseline else SERIES[(place - 1) % len(SERIES)]

    @cached_property
    def record(self) -> dict[str, Any]:
        """What a simulation's run.json says; empty for anything else."""
        for each in self.predicted:
            for folder in each.predictions.resolve().parents[:6]:
                if (folder / RUN_FILE).is_file():
                    return _record(folder / RUN_FILE)
        return {}

    def mean_seconds(self, arm: str) -> float:
        """Of training, over the sites; nan unless all are known."""
        return known_mean([training.seconds for training in self.of_arm(arm).values()])

    def fetched_bytes(self, site: str, arm: str) -> float:
        """By the ledger, or by the simulation's own count; nan where nobody counted."""
        counted = self.trainings[site, arm].fetched_bytes if (site, arm) in self.trainings else math.nan
        if not math.isnan(counted):
            return counted
        moved = (self.record.get("moved_bytes") or {}).get(arm) or {}
        return number_or_nan(moved.get(site))


class Gain(NamedTuple):
    """A difference to the baseline, with its 95 % interval; nan where it is not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One line of a table of the summary; there may be none."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> float:
        """A number; nan where there is none."""
        return number_or_nan(self.values.get(name))

    def word(self, name: str) -> str:
        """A text; empty where there is none."""
        return str(self.values.get(name, ""))

    def holds(self, name: str) -> bool:
        """Whether a yes or no is yes; no where there is none."""
        return bool(self.values.get(name, False))

    @property
    def gain(self) -> Gain:
        """In Dice, over the baseline."""
        return Gain(self["gain"], self["gain_low"], self["gain_high"])


def row_of(frame: pd.DataFrame, **wanted: str) -> Row:
    """The first line in which all columns have these values."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return Row({str(name): value for name, value in frame.iloc[0].items()} if len(frame) else {})


def number_or_nan(value: Any) -> float:  # noqa: ANN401 - whatever a table or JSON holds
    """A number as it is; nan for anything else."""
    return float(value) if isinstance(value, Real) else math.nan


def known_mean(values: Sequence[float]) -> float:
    """Mean if all are known; nan otherwise: sites are only compared together."""
    return sum(values) / len(values) if values else math.nan


def _training(fold: Path | None, mail: Path | None) -> Training:
    path = mail / "ledger.jsonl" if mail else None
    entries = list(read_entries(path)) if path else []
    good = [each for each in entries if each is not None]
    return Training(
        epochs=read_epochs(fold) if fold else [],
        rounds=read_rounds(fold) if fold else [],
        entries=good,
        broken_lines=len(entries) - len(good),
        has_ledger=bool(path and path.exists()),
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "")
    except ConfigError:
        return {}
