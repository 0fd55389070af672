"""Another site's plans in the place of our own, by nnU-Net's own means; only the dataset's name is ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_gml.json_files import read_json
from nnunet_gml.planning.foreign_plans import PlansError, check_plans
from nnunet_gml.planning.planned import (
    FINGERPRINT,
    Planned,
    dataset_name,
    folder_of,
    planned,
    put_file,
    raw_description,
)
from nnunet_gml.planning.stock import dataset_id, run_stock
from peer_sync.errors import ConfigError

LOG = "nnunet_gml_adopt.log"
REPLACED = ".replaced"
"""Ending of the plans file that was there before."""
BEFORE = ".before"
"""The same while plans are being adopted."""
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
    raw_description(raw)
    target = folder / f"{plans['plans_name']}.json"
    with _kept(target):
        put_file(target, json.dumps({**plans, "dataset_name": name}, indent=4).encode() + b"\n")
        _localise(name, str(plans["plans_name"]), folder)
        _copy_description(raw, folder)
        return planned(name, configuration, str(plans["plans_name"]))


def preprocess(found: Planned, processes: int | None = None) -> None:
    """Preprocess a dataset by its plans with nnU-Net's own command. Raises `ConfigError`.

    nnU-Net's training wants the dataset's own fingerprint, too, which planning would have made.
    """
    dataset, limit = ("-d", dataset_id(found.dataset)), ["-np", str(processes)] if processes else []
    if not (found.folder / FINGERPRINT).exists():
        run_stock("nnUNetv2_extract_fingerprint", *dataset, *limit)
    words = ["-c", found.configuration, "-plans_name", found.plans_name]
    run_stock("nnUNetv2_preprocess", *dataset, *words, *limit)


@contextmanager
def _kept(target: Path) -> Iterator[None]:
    """What ``target`` was comes back if the block fails; else it stays beside it, if it was something else.

    Meanwhile it lies on the disk, so nothing is lost if the computer stops: the next call finds it there.
    """
    before = target.with_name(target.name + BEFORE)
    if target.exists() and not before.exists():
        put_file(before, target.read_bytes())
    try:
        yield
    except BaseException:
        if before.exists():
            before.replace(target)
        else:
            target.unlink(missing_ok=True)
        raise
    if before.exists() and before.read_bytes() != target.read_bytes():
        before.replace(target.with_name(target.name + REPLACED))
    before.unlink(missing_ok=True)


def _localise(name: str, plans_name: str, folder: Path) -> None:
    """nnU-Net's own way: dataset name and reader become ours, whatever else changes between two datasets."""
    words = ("-s", name, "-t", name, "-sp", plans_name)
    run_stock("nnUNetv2_move_plans_between_datasets", *words, log=folder / LOG)


def _copy_description(raw: Path, folder: Path) -> None:
    """As nnU-Net's planner does: dataset.json, and the splits if the raw dataset brings any."""
    put_file(folder / "dataset.json", (raw / "dataset.json").read_bytes())
    if (raw / "splits_final.json").exists() and not (folder / "splits_final.json").exists():
        put_file(folder / "splits_final.json", (raw / "splits_final.json").read_bytes())
