"""A trained model as the zip that nnU-Net installs, with nothing in it that names a case.

nnU-Net's own export also packs the validation's summary (a path for every case), the fingerprint (shape
and spacing of every case), debug.json (the computer's name) and the whole checkpoint with the training's
arguments. So only what nnU-Net's prediction reads is written here, in nnU-Net's layout; everything else
stays out because it is not on the list.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import torch

from nnunet_gml.explanation import FOLD_EXAMPLE, read_rounds
from nnunet_gml.handover.checkpoints import FINAL, WEIGHTS, read_checkpoint
from nnunet_gml.handover.model_card import FoldCard, ModelCard
from nnunet_gml.handover.new_file import new_file
from nnunet_gml.json_files import read_json
from nnunet_gml.planning.plans import class_names, plans_digest
from nnunet_gml.versions import installed_versions
from peer_sync.errors import ConfigError
from peer_sync.site import Site

DATASET_KEYS = (
    "channel_names",
    "modality",
    "labels",
    "regions_class_order",
    "file_ending",
    "overwrite_image_reader_writer",
)
"""What nnU-Net's prediction reads of dataset.json; a list of cases, texts and counts are left out."""
CARD = "model_card"
STATE = "nnunet_gml"
INCOMPLETE = "nnU-Net writes it when it trains; restore it, or name the output folder of another fold"


def export(folds: Sequence[Path], target: Path, site: Site | None, with_dice: bool = True) -> ModelCard:
    """Write folds of one model into a new zip for ``nnUNetv2_install_pretrained_model_from_zip``.

    Args:
        folds: output folders of trained folds, all of one model, ``.../DATASET/TRAINER__PLANS__CONF/fold_X``.
        target: the zip; must not exist.
        site: whose federation names the card's digest; None leaves site and federation unnamed.
        with_dice: whether Dice of the validation stands in the card.

    Raises:
        ConfigError: a folder is not such a fold, folds of two models are mixed, or ``target`` exists.
    """
    model = _model_of(folds)
    with new_file(target) as part:
        dataset = _shared_dataset(read_json(model / "dataset.json", INCOMPLETE))
        plans = read_json(model / "plans.json", INCOMPLETE)
        checkpoints = {fold.name: read_checkpoint(fold / FINAL) for fold in folds}
        card = _card(folds, checkpoints, plans, dataset, site, with_dice)
        _write(part, f"{model.parent.name}/{model.name}", _texts(dataset, plans, card), checkpoints)
    return card


def _texts(dataset: Mapping[str, Any], plans: Mapping[str, Any], card: ModelCard) -> dict[str, str]:
    return {
        "dataset.json": json.dumps(dataset, indent=4),
        "plans.json": json.dumps(plans, indent=4),
        f"{CARD}.json": json.dumps(card.to_json(), indent=2),
        f"{CARD.upper()}.md": card.to_markdown(),
    }


def _write(
    zip_path: Path, folder: str, texts: Mapping[str, str], checkpoints: Mapping[str, dict[str, Any]]
) -> None:
    with zipfile.ZipFile(zip_path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(f"{folder}/{name}", text)
        for fold, checkpoint in checkpoints.items():
            place = zipfile.ZipInfo(f"{folder}/{fold}/{FINAL}")
            place.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(place, "w", force_zip64=True) as file:
                torch.save(_shared_checkpoint(checkpoint), file)


def _shared_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What nnU-Net's prediction, and ``-pretrained_weights``, read of a checkpoint."""
    arguments = checkpoint["init_args"]
    return {
        WEIGHTS: checkpoint[WEIGHTS],
        "trainer_name": checkpoint["trainer_name"],
        "inference_allowed_mirroring_axes": checkpoint.get("inference_allowed_mirroring_axes"),
        "init_args": {key: arguments[key] for key in ("configuration", "fold")},
    }


def _shared_dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dataset[key] for key in DATASET_KEYS if key in dataset}


def _model_of(folds: Sequence[Path]) -> Path:
    models = {fold.absolute().parent for fold in folds}
    for fold in folds:
        if not (fold.name.startswith("fold_") and (fold / FINAL).is_file()):
            raise ConfigError(
                f"{fold} holds no trained fold: expected {FINAL} in a folder fold_X",
                f"name output folders of folds whose training has ended, such as {FOLD_EXAMPLE}",
            )
    model = models.pop()
    if models or len(model.name.split("__")) != 3 or not model.parent.name.startswith("Dataset"):
        raise ConfigError(
            f"the folds lie in {len(models) + 1} folders, expected one DATASET/TRAINER__PLANS__CONFIGURATION",
            "export each model into a zip of its own",
        )
    return model


def _card(
    folds: Sequence[Path],
    checkpoints: Mapping[str, dict[str, Any]],
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    site: Site | None,
    with_dice: bool,
) -> ModelCard:
    model = folds[0].absolute().parent
    trainer, plans_name, configuration = model.name.split("__")
    states = [checkpoint.get(STATE, {}) for checkpoint in checkpoints.values()]
    digest = next((str(state["federation"]) for state in states if state.get("federation")), "")
    federation = site.federation if site and digest else None
    classes = class_names(dataset)
    return ModelCard(
        dataset=model.parent.name,
        trainer=trainer,
        plans=plans_name,
        configuration=configuration,
        classes=classes,
        plans_digest=plans_digest(plans, dataset, configuration),
        site=site.name if site and digest else "",
        federation=federation.name if federation else "",
        federation_version=federation.version if federation and federation.digest == digest else 0,
        federation_digest=digest,
        versions=installed_versions(),
        folds=tuple(_fold(fold, checkpoints[fold.name], classes, dataset, with_dice) for fold in folds),
    )


def _fold(
    fold: Path,
    checkpoint: Mapping[str, Any],
    classes: tuple[str, ...],
    dataset: Mapping[str, Any],
    with_dice: bool,
) -> FoldCard:
    used = [round_ for round_ in read_rounds(fold) if round_.used]
    names = [round_.peer for round_ in used]
    return FoldCard(
        fold=fold.name.removeprefix("fold_"),
        epochs=int(checkpoint.get("current_epoch", 0)),
        rounds=len({round_.number for round_ in used}),
        peers={name: names.count(name) for name in sorted(set(names))},
        dice=_dice(fold / "validation" / "summary.json", classes, dataset) if with_dice else None,
    )


def _dice(
    summary: Path, classes: tuple[str, ...], dataset: Mapping[str, Any]
) -> dict[str, float | None] | None:
    """Means per class of nnU-Net's validation; None where it has not run."""
    if not summary.exists():
        return None
    means = read_json(summary, INCOMPLETE).get("mean", {})
    found = {name: means.get(_key(dataset["labels"][name], means), {}).get("Dice") for name in classes}
    return {name: None if dice is None or isnan(dice) else float(dice) for name, dice in found.items()}


def _key(label: Any, means: Mapping[str, Any]) -> str:  # noqa: ANN401 - a number, or a region's numbers
    """How nnU-Net names a label or region in its summary; a list of one number may be either."""
    if not isinstance(label, (list, tuple)):
        return str(label)
    region = str(tuple(label))
    return region if region in means else str(label[0])
