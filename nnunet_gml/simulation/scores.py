"""What a simulation has to show: Dice on held-out cases, bytes moved, one table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean

from nnunet_gml.simulation.workspace import SiteSpace, description

STOCK = "nnUNetTrainer"


@dataclass(frozen=True)
class Score:
    """Dice of one class (or region) in one held-out case; nan if neither contour has it."""

    site: str
    trainer: str
    case: str
    class_name: str
    dice: float


def evaluate(site: SiteSpace, trainer: str) -> list[Score]:
    """Compare a site's predictions with its held-out labels, by nnU-Net's own evaluator."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    dataset = description(site.raw)
    ending, ignored = dataset["file_ending"], dataset["labels"].get("ignore")
    classes = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in dataset["labels"].items()
        if name not in ("background", "ignore")
    }
    scores = []
    for predicted in sorted(site.predictions(trainer).glob(f"*{ending}")):
        reference = site.raw / "labelsTs" / predicted.name
        reader = determine_reader_writer_from_dataset_json(dataset, str(reference), verbose=False)()
        metrics = compute_metrics(str(reference), str(predicted), reader, [*classes.values()], ignored)
        case = predicted.name.removesuffix(ending)
        for name, region in classes.items():
            dice = float(metrics["metrics"][region]["Dice"])
            scores.append(Score(site.name, trainer, case, name, dice))
    return scores


def mean_dice(scores: Iterable[Score]) -> float:
    """Mean over cases of the mean over classes; a class that neither contour has is left out.

    nan without any score.
    """
    cases: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        if not math.isnan(score.dice):
            cases.setdefault((score.site, score.case), []).append(score.dice)
    return fmean(fmean(dice) for dice in cases.values()) if cases else math.nan


def bytes_collected(mail: Path) -> int:
    """All bytes that a site has fetched from its peers, from the ledger of its exchanges."""
    ledger = mail / "ledger.jsonl"
    if not ledger.exists():
        return 0
    lines = [json.loads(line) for line in ledger.read_text().splitlines() if line.strip()]
    return sum(int(line.get("bytes") or 0) for line in lines if line.get("event") == "collect")


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write results.csv: one row per site, trainer, case and class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("class" if field.name == "class_name" else field.name for field in fields(Score))
        writer.writerows(astuple(score) for score in scores)


@dataclass(frozen=True)
class Table:
    """Mean Dice and bytes moved per site and trainer; a site that did not finish has a dash."""

    sites: tuple[str, ...]
    trainers: tuple[str, ...]
    scores: tuple[Score, ...]
    moved_bytes: dict[tuple[str, str], int]

    def dice(self, site: str | None, trainer: str) -> float:
        """Mean Dice of one site's network, or over the cases of all sites; nan unless all have finished.

        Trainers are only compared on the same sites: a site that is missing may be a hard one.
        """
        found = [s for s in self.scores if s.trainer == trainer and site in (None, s.site)]
        expected = set(self.sites) if site is None else {site}
        return mean_dice(found) if {s.site for s in found} == expected else math.nan

    def rows(self) -> list[list[str]]:
        """One row per site, then all sites together."""
        rows = [self._row(site, site) for site in self.sites]
        return [*rows, self._row("all sites", None)]

    def heads(self) -> list[str]:
        """The heads of the columns."""
        heads = ["site"]
        for trainer in self.trainers:
            heads += [f"{trainer}: Dice"]
            heads += [] if trainer == STOCK else ["MB moved"]
            heads += ["gain"] if self._has_gain(trainer) else []
        return heads

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.heads(), ["---"] * len(self.heads()), *self.rows()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def _has_gain(self, trainer: str) -> bool:
        return trainer != STOCK and STOCK in self.trainers

    def _row(self, title: str, site: str | None) -> list[str]:
        row = [title]
        for trainer in self.trainers:
            row.append(_number(self.dice(site, trainer), "{:.4f}"))
            if trainer != STOCK:
                sites = self.sites if site is None else (site,)
                row.append(f"{sum(self.moved_bytes.get((s, trainer), 0) for s in sites) / 1e6:.1f}")
            if self._has_gain(trainer):
                row.append(_number(self.dice(site, trainer) - self.dice(site, STOCK), "{:+.4f}"))
        return row


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
