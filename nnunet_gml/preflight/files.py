"""Whether nnU-Net's files are there and fit each other: raw data, plans, preprocessed cases, the split."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nnunet_gml.json_files import read_json
from nnunet_gml.planning.planned import FINGERPRINT, Planned, folder_of
from nnunet_gml.planning.plans import resolved_configuration
from peer_sync.doctor.findings import FAILED, OK, WARNING, Result
from peer_sync.errors import ConfigError

ALL = "all"
FOLDS = 5
PREPROCESS = "Please preprocess: nnUNetv2_preprocess -d {dataset} -c {configuration} -plans_name {plans}"
SHOWN = 5


def check_raw(plan: Planned) -> Result:
    """The raw dataset is not read by a training, but its dataset.json is what people edit."""
    try:
        raw = folder_of("nnUNet_raw") / plan.dataset / "dataset.json"
        dataset = read_json(raw, "nnU-Net's raw data")
    except ConfigError as error:
        advice = (
            f"Training reads only preprocessed data; preprocessing anew needs the raw data. {error.hint}."
        )
        return Result(WARNING, str(error), "raw data", advice)
    for key in ("labels", "channel_names", "regions_class_order"):
        if dataset.get(key) != plan.dataset_json.get(key):
            advice = (
                f"{key} in {raw} is not that in {plan.folder / 'dataset.json'}, which training uses. "
                "Please copy the right one over the other, and preprocess again if numbers of labels changed."
            )
            return Result(WARNING, f"{key} differs from the preprocessed dataset.json", "equal", advice)
    return Result(OK, str(raw.parent))


def check_plans(plan: Planned) -> Result:
    """Which network is going to be trained."""
    resolved = resolved_configuration(plan.plans, plan.configuration)
    patch, batch = "x".join(map(str, resolved["patch_size"])), resolved["batch_size"]
    spacing = " x ".join(f"{edge:.4g}" for edge in resolved["spacing"])
    found = f"{plan.plans_name}, {plan.configuration}: patch {patch}, batch {batch}, {spacing} mm"
    return Result(OK, found)


def check_preprocessed(plan: Planned) -> Result:
    """Every case is preprocessed, and has its reference for the validation."""
    folder = plan.folder / resolved_configuration(plan.plans, plan.configuration)["data_identifier"]
    advice = PREPROCESS.format(dataset=plan.dataset, configuration=plan.configuration, plans=plan.plans_name)
    cases = preprocessed_cases(plan)
    if not cases:
        return Result(FAILED, f"no cases in {folder}", "preprocessed cases", advice, ends=True)
    missing = reference_names(plan) - cases
    if missing:
        found = f"{len(missing)} of {len(missing | cases)} cases are missing in {folder}: {_some(missing)}"
        return Result(FAILED, found, "all cases", advice)
    if not (plan.folder / FINGERPRINT).exists():
        advice = f"nnU-Net's training reads it. Please run nnUNetv2_extract_fingerprint -d {plan.dataset}"
        return Result(FAILED, f"no {FINGERPRINT} in {plan.folder}", "this dataset's own", advice)
    return Result(OK, f"{len(cases)} cases in {folder.name}")


def check_split(plan: Planned, fold: str) -> Result:
    """The fold exists, and names cases that are there."""
    cases = preprocessed_cases(plan)
    path = plan.folder / "splits_final.json"
    if fold == ALL:
        return Result(OK, f"fold all: {len(cases)} cases for training and validation")
    if not path.exists():
        if len(cases) >= FOLDS:
            return Result(OK, f"nnU-Net will make {FOLDS} folds of {len(cases)} cases")
        advice = f"nnU-Net needs at least {FOLDS} cases for its folds. Please use fold all, or write {path}."
        return Result(FAILED, f"no {path.name}, and {len(cases)} cases", f"{FOLDS} cases", advice)
    try:
        split = _split(path, int(fold))
        training, validation = set(split["train"]), set(split["val"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        advice = f"Please write {path} as nnU-Net describes it, or remove it and let nnU-Net make one."
        return Result(FAILED, f"{path.name}: no fold {fold} ({error})", "a list of folds", advice)
    unknown, shared = (training | validation) - cases, training & validation
    if unknown or not training or not validation:
        advice = f"Please mend {path}, or preprocess again. Not preprocessed: {_some(unknown) or 'none'}."
        found = f"fold {fold}: {len(training)} + {len(validation)} cases, {len(unknown)} not preprocessed"
        return Result(FAILED, found, "preprocessed cases for both", advice)
    if shared:
        advice = f"The validation of fold {fold} would flatter: {_some(shared)}. Please mend {path}."
        return Result(WARNING, f"{len(shared)} cases are in training and validation", "none", advice)
    return Result(OK, f"fold {fold}: {len(training)} cases for training, {len(validation)} for validation")


def preprocessed_cases(plan: Planned) -> set[str]:
    """Identifiers of the cases that nnU-Net's loader will find; empty without the folder."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    folder = plan.folder / resolved_configuration(plan.plans, plan.configuration)["data_identifier"]
    if not folder.is_dir() or not any(folder.iterdir()):
        return set()
    return set(infer_dataset_class(str(folder)).get_identifiers(str(folder)))


def reference_names(plan: Planned) -> set[str]:
    """Identifiers of the cases whose reference contours are kept for the validation."""
    ending = str(plan.dataset_json.get("file_ending", ""))
    references = (plan.folder / "gt_segmentations").glob(f"*{ending}")
    return {path.name.removesuffix(ending) for path in references}


def _split(path: Path, fold: int) -> dict[str, Any]:
    """A fold of the file; of a higher number nnU-Net makes a random one, which nobody means here."""
    splits = json.loads(path.read_bytes())
    if not 0 <= fold < len(splits):
        raise ValueError(f"the file has {len(splits)} folds")
    found: dict[str, Any] = splits[fold]
    return found


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:SHOWN]
    return ", ".join(shown) + (" ..." if len(names) > SHOWN else "")
