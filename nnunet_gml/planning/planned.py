"""What nnU-Net has planned for a dataset: its folder, plans and dataset.json, found as nnU-Net finds them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_gml.json_files import read_json
from peer_sync.errors import ConfigError
from peer_sync.storage import write_durably

FINGERPRINT = "dataset_fingerprint.json"
PLAN_FIRST = "plan with nnU-Net first, or together with the others: nnunet-gml plans pool"


@dataclass(frozen=True)
class Planned:
    """A dataset after planning.

    Attributes:
        dataset: nnU-Net's name, ``DatasetXXX_Name``.
        folder: nnUNet_preprocessed/DatasetXXX_Name.
        plans_name: the plans identifier, such as ``nnUNetPlans``.
        plans: the plans file.
        dataset_json: dataset.json.
        configuration: such as ``3d_fullres``; the plans have it.
    """

    dataset: str
    folder: Path
    plans_name: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    configuration: str


def planned(dataset: str, configuration: str, plans_name: str = "nnUNetPlans") -> Planned:
    """Find a dataset's plans as ``nnUNetv2_train`` would.

    Args:
        dataset: nnU-Net's name or number.
        configuration: such as ``3d_fullres``.
        plans_name: the plans identifier.

    Raises:
        ConfigError: a variable is not set, there is no such dataset, plans file or configuration.
    """
    base = folder_of("nnUNet_preprocessed")
    name = dataset_name(dataset)
    folder = base / name
    plans = read_json(folder / f"{plans_name}.json", PLAN_FIRST)
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or configuration not in configurations:
        raise ConfigError(
            f"{folder / plans_name}.json has no configuration {configuration!r}, "
            f"but {', '.join(configurations or ())}",
            PLAN_FIRST,
        )
    dataset_json = read_json(folder / "dataset.json", PLAN_FIRST)
    return Planned(name, folder, plans_name, plans, dataset_json, configuration)


def raw_description(raw: Path) -> dict[str, Any]:
    """dataset.json of a raw dataset, nnUNet_raw/DATASET. Raises `ConfigError`."""
    return read_json(raw / "dataset.json", "nnUNet_raw needs the dataset in nnU-Net's format")


def put_file(path: Path, data: bytes) -> None:
    """Write a file as a whole, in place of what is there; makes its folder. Raises `ConfigError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", "check rights and free space") from error


def folder_of(variable: str) -> Path:
    """The folder that one of nnU-Net's variables names. Raises `ConfigError`."""
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigError(f"the environment variable {variable} is not set", f"export {variable}=/a/folder")
    return Path(value)


def dataset_name(dataset: str) -> str:
    """nnU-Net's own look-up of a dataset by number or name. Raises `ConfigError`."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"dataset {dataset!r}: {reason}", "nnUNet_raw has a folder DatasetXXX_Name"
        ) from error
