"""What a simulation has to show: Dice on held-out cases, bytes moved, one table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean

from nnunet_gml.markdown import markdown_table
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.recipe import STOCK as STOCK
from nnunet_gml.simulation.recipe import Arm
from nnunet_gml.simulation.workspace import SiteSpace, class_names
from peer_sync.entries import collected_bytes, read_entries


@dataclass(frozen=True)
class Score:
    """Dice of one class (or region) in one held-out case; nan if neither contour has it."""

    site: str
    arm: str
    case: str
    class_name: str
    dice: float
    patient: str = ""


def evaluate(site: SiteSpace, arm: str) -> list[Score]:
    """Compare a site's predictions with its held-out labels, by nnU-Net's own evaluator.

    Nothing unless exactly the held-out cases are predicted: an interrupted prediction is no result.
    Without an entry in ``patients.csv`` each case of each site is a patient of its own.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    dataset = raw_description(site.raw)
    labels, ending = dataset["labels"], dataset["file_ending"]
    names = class_names(site.raw)
    classes = {name: tuple(v) if isinstance(v := labels[name], list) else v for name in names}
    references = sorted((site.raw / "labelsTs").glob(f"*{ending}"))
    predictions = {path.name for path in site.predictions(arm).glob(f"*{ending}")}
    if predictions != {path.name for path in references}:
        return []
    patients, scores = patients_of(site.raw), []
    for reference in references:
        predicted = site.predictions(arm) / reference.name
        reader = determine_reader_writer_from_dataset_json(dataset, str(reference), verbose=False)()
        metrics = compute_metrics(
            str(reference), str(predicted), reader, [*classes.values()], labels.get("ignore")
        )
        case = reference.name.removesuffix(ending)
        patient = patients.get(case, f"{site.name}/{case}")
        for name, region in classes.items():
            dice = float(metrics["metrics"][region]["Dice"])
            scores.append(Score(site.name, arm, case, name, dice, patient))
    return scores


def patients_of(raw: Path) -> dict[str, str]:
    """Which patient each case shows, from ``patients.csv`` (columns case, patient) in a raw dataset.

    Empty without that file.
    """
    path = raw / "patients.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["case"]: row["patient"] for row in csv.DictReader(file)}


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
    return collected_bytes(read_entries(mail / "ledger.jsonl"))


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write results.csv: one row per site, arm, case and class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("class" if field.name == "class_name" else field.name for field in fields(Score))
        writer.writerows(astuple(score) for score in scores)


def read_scores(path: Path) -> list[Score]:
    """The scores of a results.csv."""
    with path.open(newline="") as file:
        return [
            Score(row["site"], row["arm"], row["case"], row["class"], float(row["dice"]), row["patient"])
            for row in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Table:
    """Mean Dice and bytes moved per site and arm; a site that did not finish has a dash.

    ``moved_bytes`` has no entry where nothing can be counted: pooling moves images.
    """

    sites: tuple[str, ...]
    arms: tuple[Arm, ...]
    scores: tuple[Score, ...]
    moved_bytes: dict[tuple[str, str], int]

    @property
    def individual(self) -> str | None:
        """The arm that gains are measured against, if it was run."""
        return next((arm.name for arm in self.arms if arm.is_individual), None)

    def dice(self, site: str | None, arm: str) -> float:
        """Mean Dice of one site's network, or over the cases of all sites; nan unless all have finished.

        Arms are only compared on the same sites: a site that is missing may be a hard one.
        """
        found = [s for s in self.scores if s.arm == arm and site in (None, s.site)]
        expected = set(self.sites) if site is None else {site}
        return mean_dice(found) if {s.site for s in found} == expected else math.nan

    def rows(self) -> list[list[str]]:
        """One row per site, then all sites together."""
        rows = [self._row(site, site) for site in self.sites]
        return [*rows, self._row("all sites", None)]

    def heads(self) -> list[str]:
        """The heads of the columns."""
        heads = ["site"]
        for arm in self.arms:
            heads += [f"{arm.name}: Dice"]
            heads += [] if arm.is_individual else ["MB moved"]
            heads += ["gain"] if self._has_gain(arm) else []
        return heads

    def markdown(self) -> str:
        """The table as Markdown."""
        return markdown_table([self.heads(), *self.rows()])

    def _has_gain(self, arm: Arm) -> bool:
        return not arm.is_individual and self.individual is not None

    def _row(self, title: str, site: str | None) -> list[str]:
        row = [title]
        for arm in self.arms:
            row.append(number_text(self.dice(site, arm.name), "{:.4f}"))
            if not arm.is_individual:
                row.append(self._moved(self.sites if site is None else (site,), arm.name))
            if self._has_gain(arm) and self.individual:
                row.append(
                    number_text(self.dice(site, arm.name) - self.dice(site, self.individual), "{:+.4f}")
                )
        return row

    def _moved(self, sites: Sequence[str], arm: str) -> str:
        counts = [self.moved_bytes.get((site, arm)) for site in sites]
        counted = [count for count in counts if count is not None]
        return f"{sum(counted) / 1e6:.1f}" if len(counted) == len(counts) else "-"


def number_text(value: float, form: str = "{:.4f}") -> str:
    """The number in this form; a dash for nan."""
    return "-" if math.isnan(value) else form.format(value)
