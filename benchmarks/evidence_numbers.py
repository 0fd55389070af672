"""Figures of several finished simulations: means, paired differences, bytes, seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunet_gml import stats
from nnunet_gml.simulation.recipe import Arm, parse_arm
from nnunet_gml.simulation.scores import Score, read_scores

Case = tuple[int, str, str]
"""Seed, site and name: one held-out case of one run."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        seed: of the run, and of the division of its data.
        record: the content of run.json.
        scores: of every arm that has predictions, as far as they go.
    """

    seed: int
    record: dict[str, Any]
    scores: tuple[Score, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(self.record["sites"])


@dataclass(frozen=True)
class Comparison:
    """One arm against another on the same patients."""

    gain: float
    interval: stats.Interval
    p: float
    patients: int


class Results:
    """All seeds' runs of one part of an experiment.

    An arm counts for a seed only if every site has finished with it: a site that is missing may be a
    hard one.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.sites = runs[0].sites if runs else ()
        known = [words for run in runs for words in run.record["recipe"]["trainers"]]
        self.arms: dict[str, Arm] = {parse_arm(words).name: parse_arm(words) for words in known}
        self.classes = tuple(dict.fromkeys(score.class_name for run in runs for score in run.scores))
        self._dice: dict[str, dict[Case, dict[str, float]]] = {name: {} for name in self.arms}
        self._patients: dict[Case, str] = {}
        for run in runs:
            for score in run.scores:
                case = (run.seed, score.site, score.case)
                self._dice[score.arm].setdefault(case, {})[score.class_name] = score.dice
                self._patients[case] = score.patient or score.case

    @property
    def individual(self) -> str | None:
        """The arm that gains are measured against."""
        return next((name for name, arm in self.arms.items() if arm.is_individual), None)

    def seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds with which every site has finished an arm."""
        found = {(seed, site) for seed, site, _ in self._dice.get(arm, {})}
        return tuple(run.seed for run in self.runs if all((run.seed, site) in found for site in run.sites))

    def dice(self, arm: str, site: str | None = None, classes: Collection[str] = ()) -> float:
        """Mean over held-out cases of the mean over classes (those that either contour has)."""
        seeds = self.seeds(arm)
        cases = [
            _mean(dice for name, dice in found.items() if not classes or name in classes)
            for case, found in self._dice.get(arm, {}).items()
            if case[0] in seeds and site in (None, case[1])
        ]
        return _mean(cases)

    def compare(
        self, arm: str, other: str, site: str | None = None, classes: Collection[str] = ()
    ) -> Comparison:
        """One arm's Dice minus another's, on the cases, classes and seeds that both have."""
        both = set(self.seeds(arm)) & set(self.seeds(other))
        pairs = []
        for case, found in self._dice.get(arm, {}).items():
            others = self._dice.get(other, {}).get(case)
            if others and case[0] in both and site in (None, case[1]):
                wanted = [name for name in found if name in others and (not classes or name in classes)]
                difference = _mean(found[name] - others[name] for name in wanted)
                pairs.append((self._patients[case], difference))
        grouped = stats.per_patient(pairs)
        interval, p = stats.bootstrap_interval(grouped), stats.signed_rank_p(grouped)
        return Comparison(stats.mean_difference(grouped), interval, p, len(grouped))

    def worst_gain(self, arm: str, other: str) -> tuple[str, float]:
        """The site that an arm serves worst, and its gain there; nan without any."""
        gains = [(self.compare(arm, other, site).gain, site) for site in self.sites]
        finite = [pair for pair in gains if not math.isnan(pair[0])]
        gain, site = min(finite, default=(math.nan, ""))
        return site, gain

    def moved_bytes(self, arm: str) -> float:
        """Bytes that all sites together have taken in, mean over seeds; nan where nothing can be counted."""
        sums = []
        for run in self.runs:
            counts = run.record.get("moved_bytes", {}).get(arm, {}).values()
            if run.seed in self.seeds(arm) and None not in counts:
                sums.append(float(sum(counts)))
        return _mean(sums)

    def training_seconds(self, arm: str) -> float:
        """Wall time of an arm's training, all sites side by side, mean over seeds; nan for none."""
        sums = []
        for run in self.runs:
            steps = [step for step in run.record["steps"] if step.get("arm") == arm and step["run"]]
            seconds = [step["seconds"] for step in steps if step["title"].startswith("train ")]
            if run.seed in self.seeds(arm) and seconds:
                sums.append(float(sum(seconds)))
        return _mean(sums)


def read_runs(folders: Iterable[tuple[int, Path]]) -> list[Run]:
    """The runs that have results; folders without are left out.

    Args:
        folders: seed and run folder.
    """
    runs = []
    for seed, folder in folders:
        if (folder / "results.csv").exists():
            record = json.loads((folder / "run.json").read_text())
            runs.append(Run(seed, record, tuple(read_scores(folder / "results.csv"))))
    return runs


def _mean(values: Iterable[float]) -> float:
    """Mean of what is a number; nan for nothing."""
    finite = [value for value in values if not math.isnan(value)]
    return fmean(finite) if finite else math.nan
