"""Predictions with their references: what a comparison is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_gml.planning.plans import class_names

FORMS = (
    "name a run folder of nnunet-gml simulate, an output folder of nnUNetv2_train (a fold, or a folder "
    "above), or SITE:ARM=PREDICTIONS,REFERENCES"
)
"""How a place is written; every hint that asks for one says so."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of one site's held-out cases by one arm, and the references that they are held against.

    Attributes:
        site: whose cases.
        arm: what made the network: a trainer, or a name for it.
        predictions: folder of segmentations.
        references: folder of the reference segmentations; each prediction has one of its name.
        dataset: dataset.json: labels, file_ending, channel_names.
        training: the fold's output folder: logs, gml_rounds.jsonl, checkpoint.
        mail: the courier's folder: ledger.jsonl.
        images: imagesTs or imagesTr.
        patients: case to patient; a case that is missing shows a patient of its own.
        trained_at: the site whose network it is; empty for ``site`` itself.
        is_stock: whether this is stock nnU-Net, on the cases of one site: what gains are measured against.
    """

    site: str
    arm: str
    predictions: Path
    references: Path
    dataset: dict[str, Any]
    training: Path | None = None
    mail: Path | None = None
    images: Path | None = None
    patients: Mapping[str, str] = field(default_factory=dict)
    trained_at: str = ""
    is_stock: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the site's own network predicted."""
        return self.trained_at in ("", self.site)

    @property
    def classes(self) -> dict[str, int | tuple[int, ...]]:
        """Name to label, or to the labels of a region, in the order of the network's output."""
        return classes_of(self.dataset)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Names of the predicted cases."""
        ending = self.dataset["file_ending"]
        names = (path.name for path in self.predictions.glob(f"*{ending}"))
        return tuple(sorted(name.removesuffix(ending) for name in names))

    def prediction(self, case: str) -> Path:
        """File of a case's prediction."""
        return self.predictions / f"{case}{self.dataset['file_ending']}"

    def reference(self, case: str) -> Path:
        """File of a case's reference."""
        return self.references / f"{case}{self.dataset['file_ending']}"

    def patient(self, case: str) -> str:
        """Whom a case shows."""
        return self.patients.get(case, f"{self.site}/{case}")


def classes_of(dataset: Mapping[str, Any]) -> dict[str, int | tuple[int, ...]]:
    """Name to label, or to a region's labels, of a dataset.json; in the order of the network's output."""
    labels = dataset["labels"]
    values = {name: labels[name] for name in class_names(dataset)}
    return {name: tuple(v) if isinstance(v, list) else int(v) for name, v in values.items()}


def class_names_of(found: Sequence[Predicted]) -> tuple[str, ...]:
    """All classes of all sites, each once."""
    return tuple(dict.fromkeys(name for each in found for name in each.classes))
