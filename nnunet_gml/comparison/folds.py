"""Output folders of ``nnUNetv2_train`` whose validation is done, and where their references lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nnunet_gml.comparison.predicted import Predicted
from nnunet_gml.json_files import read_json
from nnunet_gml.simulation.recipe import STOCK
from nnunet_gml.simulation.scores import patients_of
from nnunet_gml.simulation.workspace import slug
from peer_sync.errors import ConfigError

SUMMARY = "summary.json"
"""What nnU-Net writes last of a validation."""


@dataclass(frozen=True)
class Fold:
    """One fold of one model, ``DATASET/TRAINER__PLANS__CONFIGURATION/fold_X``.

    Attributes:
        folder: the fold's output folder.
        references: nnU-Net's copies of the reference segmentations.
        raw: the raw dataset, if it is here.
    """

    folder: Path
    references: Path
    raw: Path | None

    @property
    def dataset(self) -> str:
        """``DatasetXXX_Name``."""
        return self.folder.absolute().parents[1].name

    @property
    def trainer(self) -> str:
        """Name of the trainer's class."""
        return self.folder.absolute().parent.name.split("__")[0]

    @property
    def images(self) -> Path | None:
        """The raw training images, if they are here."""
        images = self.raw / "imagesTr" if self.raw else None
        return images if images and images.is_dir() else None


def trained(folder: Path) -> list[Predicted]:
    """Validation cases of every fold in or below a folder whose validation has ended.

    Raises:
        ConfigError: the references of one cannot be found.
    """
    summaries = sorted(folder.rglob(f"validation/{SUMMARY}"))
    folds = [path.parents[1] for path in summaries if path.parents[1].name.startswith("fold_")]
    return [_predicted(_fold(fold)) for fold in folds]


def _predicted(fold: Fold) -> Predicted:
    return Predicted(
        site=slug(fold.dataset),
        arm=fold.trainer,
        predictions=fold.folder / "validation",
        references=fold.references,
        dataset=read_json(fold.folder.parent / "dataset.json", "nnU-Net writes it when it trains"),
        training=fold.folder,
        images=fold.images,
        patients=patients_of(fold.raw) if fold.raw else {},
        is_stock=fold.trainer == STOCK,
    )


def _fold(folder: Path) -> Fold:
    dataset = folder.absolute().parents[1].name
    raw = _below("nnUNet_raw", dataset)
    preprocessed = _below("nnUNet_preprocessed", dataset)
    candidates = [
        _named_in(folder / "validation" / SUMMARY),
        preprocessed / "gt_segmentations" if preprocessed else None,
        raw / "labelsTr" if raw else None,
    ]
    for references in candidates:
        if references and references.is_dir():
            return Fold(folder, references, raw)
    raise ConfigError(
        f"the references of {folder / 'validation'} are not where nnU-Net had them",
        "export nnUNet_preprocessed (it holds gt_segmentations), or write SITE:ARM=PREDICTIONS,REFERENCES",
    )


def _below(variable: str, dataset: str) -> Path | None:
    base = os.environ.get(variable)
    folder = Path(base, dataset) if base else None
    return folder if folder and folder.is_dir() else None


def _named_in(summary: Path) -> Path | None:
    """The folder that nnU-Net took the references from when it validated."""
    cases = read_json(summary, "nnU-Net writes it after the validation").get("metric_per_case")
    first = cases[0].get("reference_file") if cases else None
    return Path(first).parent if first else None
