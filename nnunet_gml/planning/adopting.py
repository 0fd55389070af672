"""Another site's plans in the place of our own, by nnU-Net's own means; only the dataset's name is ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_gml.json_files import read_json
from nnunet_gml.planning.foreign_plans import PlansError, check_plans
from nnunet_gml.planning.planned import Planned, dataset_name, folder_of, planned
from nnunet_gml.planning.stock import dataset_id, run_stock
from peer_sync.errors import ConfigError
from peer_sync.storage import write_durably

LOG = "nnunet_gml_adopt.log"
REPLACED = ".replaced"
"""Ending of the plans file that was there before."""
MAX_BYTES = 4 << 20


def plans_from_file(path: Path) -> dict[str, Any]:
    """Read and check a plans file that came by mail, say. Raises `ConfigError`."""
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            f"{path}: expected at most {MAX_BYTES} bytes, found more", hint="is it a plans file?"
        )
    try:
        return check_plans(read_json(path, "name a plans file of nnU-Net, such as nnUNetPlans.json"))
    except PlansError as error:
        raise ConfigError(
            f"{path}: {error}",
            hint="plans can make nnU-Net run code and remove folders; if you trust it, copy it by hand",
        ) from error


def adopt(dataset: str, plans: Mapping[str, Any], configuration: str) -> Planned:
    """Put checked plans in the place of ours; the old file is kept beside them.

    Args:
        dataset: nnU-Net's name or number of our dataset.
        plans: of another site, after `nnunet_gml.planning.foreign_plans.check_plans`.
        configuration: the one that is meant.

    Raises:
        ConfigError: the dataset is not there, or nnU-Net does not take the plans; then ours are back.
    """
    name = dataset_name(dataset)
    raw, folder = (folder_of(variable) / name for variable in ("nnUNet_raw", "nnUNet_preprocessed"))
    read_json(raw / "dataset.json", "nnUNet_raw needs the dataset in nnU-Net's format")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{plans['plans_name']}.json"
    before = target.read_bytes() if target.exists() else None
    write_durably(target, json.dumps({**plans, "dataset_name": name}, indent=4).encode() + b"\n")
    try:
        _localise(name, str(plans["plans_name"]), folder)
        _copy_description(raw, folder)
        found = planned(name, configuration, str(plans["plans_name"]))
    except BaseException:
        target.unlink()
        if before is not None:
            write_durably(target, before)
        raise
    if before is not None:
        write_durably(target.with_name(target.name + REPLACED), before)
    return found


def preprocess(found: Planned, processes: int | None = None) -> None:
    """Preprocess a dataset by its plans with nnU-Net's own command. Raises `ConfigError`."""
    words = ["-d", dataset_id(found.dataset), "-c", found.configuration, "-plans_name", found.plans_name]
    run_stock("nnUNetv2_preprocess", *words, *(["-np", str(processes)] if processes else []))


def _localise(name: str, plans_name: str, folder: Path) -> None:
    """nnU-Net's own way: dataset name and reader become ours, whatever else changes between two datasets."""
    words = ("-s", name, "-t", name, "-sp", plans_name)
    run_stock("nnUNetv2_move_plans_between_datasets", *words, log=folder / LOG)


def _copy_description(raw: Path, folder: Path) -> None:
    """As nnU-Net's planner does: dataset.json, and the splits if the raw dataset brings any."""
    shutil.copyfile(raw / "dataset.json", folder / "dataset.json")
    if (raw / "splits_final.json").exists() and not (folder / "splits_final.json").exists():
        shutil.copyfile(raw / "splits_final.json", folder / "splits_final.json")
