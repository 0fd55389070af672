"""Figures of several finished simulations, one for each seed: means, paired differences, bytes, seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_gml import stats
from nnunet_gml.explanation import mean
from nnunet_gml.simulation.recipe import Arm, differences, parse_arm
from nnunet_gml.simulation.scores import Score, read_scores
from peer_sync.errors import ConfigError

OF_ONE_RUN = ("datasets", "seed", "trainers")
"""Settings in which the runs of one part may differ."""
AGAIN = "only runs that were made alike can stand in one table: make one of them again"
Case = tuple[int, str, str]
"""Seed, site and name: one held-out case of one run."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        seed: of the run, and of the division of its data.
        record: the content of run.json.
        scores: of every arm that has predictions, as far as they go.
        name: of its folder.
    """

    seed: int
    record: dict[str, Any]
    scores: tuple[Score, ...]
    name: str

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

    Raises:
        ConfigError: the runs were not made alike, or have different arms of one name.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        check_alike(runs)
        self.runs = runs
        self.sites = runs[0].sites if runs else ()
        self.arms = _arms(runs)
        self.classes = tuple(dict.fromkeys(score.class_name for run in runs for score in run.scores))
        self._dice: dict[str, dict[Case, dict[str, float]]] = {name: {} for name in self.arms}
        self._patients: dict[Case, str] = {}
        for run in runs:
            for score in run.scores:
                case = (run.seed, score.site, score.case)
                self._dice[score.arm].setdefault(case, {})[score.class_name] = score.dice
                self._patients[case] = score.patient or f"{score.site}/{score.case}"

    @property
    def individual(self) -> str | None:
        """The arm that gains are measured against."""
        return next((name for name, arm in self.arms.items() if arm.is_individual), None)

    def seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds with which every site has finished an arm, on the cases of the individual arm."""
        return tuple(run.seed for run in self.runs if self._is_whole(arm, run))

    def _is_whole(self, arm: str, run: Run) -> bool:
        found, expected = self._cases(arm, run.seed), self._cases(self.individual or arm, run.seed)
        has_all, expects_all = ({site for site, _ in cases} == set(run.sites) for cases in (found, expected))
        return has_all and (found == expected or not expects_all)

    def _cases(self, arm: str, seed: int) -> set[tuple[str, str]]:
        """Site and name of the cases that an arm has scores of."""
        return {(site, name) for run, site, name in self._dice.get(arm, {}) if run == seed}

    def dice(self, arm: str, site: str | None = None, classes: Collection[str] = ()) -> float:
        """Mean over held-out cases of the mean over classes (those that either contour has)."""
        seeds = self.seeds(arm)
        cases = [
            mean(dice for name, dice in found.items() if not classes or name in classes)
            for case, found in self._dice.get(arm, {}).items()
            if case[0] in seeds and site in (None, case[1])
        ]
        return mean(cases)

    def compare(
        self, arm: str, other: str, site: str | None = None, classes: Collection[str] = ()
    ) -> Comparison:
        """One arm's Dice minus another's, on the cases, classes and seeds that both have.

        A class that a case does not have is nan for the arm that shows none of it, and 0 for one that
        shows some: as a pair they are 1, rightly absent, against 0. Two nan are left out.
        """
        both = set(self.seeds(arm)) & set(self.seeds(other))
        pairs = []
        for case, found in self._dice.get(arm, {}).items():
            others = self._dice.get(other, {}).get(case)
            if others and case[0] in both and site in (None, case[1]):
                wanted = [name for name in found if name in others and (not classes or name in classes)]
                difference = mean(stats.gain(found[name], others[name]) for name in wanted)
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
        return mean(sums)

    def rounds(self, arm: str) -> dict[int, dict[str, Any]]:
        """By seed, the rounds due and per site those without a peer, where they were counted."""
        counts = {run.seed: run.record.get("rounds", {}).get(arm) for run in self.runs}
        return {seed: counts[seed] for seed in self.seeds(arm) if counts[seed] is not None}

    def training_seconds(self, arm: str) -> float:
        """Wall time of an arm's training, all sites side by side, mean over seeds; nan for none."""
        sums = []
        for run in self.runs:
            steps = [step for step in run.record["steps"] if step.get("arm") == arm and step["run"]]
            seconds = [step["seconds"] for step in steps if step["title"].startswith("train ")]
            if run.seed in self.seeds(arm) and seconds:
                sums.append(float(sum(seconds)))
        return mean(sums)


def read_runs(folders: Iterable[tuple[int, Path]]) -> list[Run]:
    """The runs that have results; folders without are left out.

    Args:
        folders: seed and run folder.
    """
    runs = []
    for seed, folder in folders:
        if (folder / "results.csv").exists():
            record = json.loads((folder / "run.json").read_text())
            runs.append(Run(seed, record, tuple(read_scores(folder / "results.csv")), folder.name))
    return runs


def check_alike(runs: Sequence[Run], apart: Collection[str] = OF_ONE_RUN) -> None:
    """Make sure that runs were made alike, so that their scores may stand in one table.

    Raises:
        ConfigError: recipes differ in something that is not ``apart``, or an arm was trained with other
            settings in another run; it names the runs and what differs.
    """
    trained: dict[str, tuple[Run, Any]] = {}
    for run in runs:
        for name in differences(runs[0].record["recipe"], run.record["recipe"], apart):
            values = [each.record["recipe"].get(name) for each in (runs[0], run)]
            raise ConfigError(
                f"{name} is {values[0]} in {runs[0].name}, but {values[1]} in {run.name}", AGAIN
            )
        for arm, facts in run.record.get("trained", {}).items():
            now = facts["settings"]
            first, settings = trained.setdefault(arm, (run, now))
            for name in (name for name in {**settings, **now} if settings.get(name) != now.get(name)):
                where = f"{settings.get(name)} in {first.name}, but {now.get(name)} in {run.name}"
                raise ConfigError(f"{name} of the arm {arm} is {where}", AGAIN)


def _arms(runs: Sequence[Run]) -> dict[str, Arm]:
    found: dict[str, tuple[Arm, str]] = {}
    for run in runs:
        for arm in map(parse_arm, run.record["recipe"]["trainers"]):
            first, name = found.setdefault(arm.name, (arm, run.name))
            if first != arm:
                raise ConfigError(f"trainers: {first} in {name}, but {arm} in {run.name}", AGAIN)
    return {name: arm for name, (arm, _) in found.items()}
