"""What can be compared: predictions of held-out cases with their references, found in finished runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_gml.comparison.folds import trained
from nnunet_gml.comparison.predicted import FORMS
from nnunet_gml.comparison.predicted import Predicted as Predicted
from nnunet_gml.comparison.simulated import simulated
from nnunet_gml.json_files import read_json
from nnunet_gml.simulation.recipe import STOCK
from nnunet_gml.simulation.scores import patients_of
from peer_sync.errors import ConfigError

SITE_AND_ARM = re.compile(
    r"(?P<site>[a-z0-9-]{1,64})(@(?P<tested>[a-z0-9-]{1,64}))?(:(?P<arm>[A-Za-z][A-Za-z0-9_-]{0,63}))?"
)


def find_predicted(places: Sequence[Path | str]) -> list[Predicted]:
    """Everything below the places that can be compared, each arm of each site once.

    Args:
        places: run folders of ``nnunet-gml simulate``, with ``NAME=`` before one to go before the names of
            its sites; output folders of ``nnUNetv2_train`` (one fold, or any folder above), with ``SITE=`` or
            ``SITE:ARM=`` before one if its site is not to be named as the dataset and its arm as the trainer;
            ``SITE:ARM=PREDICTIONS,REFERENCES``, or ``TRAINED@TESTED:ARM=...`` for the network of one site on
            the cases of another.

    Raises:
        ConfigError: a place is none of these, has nothing to compare or no reference for a case; or a case is
            predicted twice by one arm.
    """
    found = [each for place in places for each in _in_place(place)]
    _check_references(found)
    _check_once(found)
    return found


def _in_place(place: Path | str) -> list[Predicted]:
    names, folders = _split(str(place))
    if len(folders) == 2:
        return [_given(names, *folders)]
    (folder,) = folders
    if "tested" in names:
        raise ConfigError(f"{place}: predictions and references are two folders", FORMS)
    is_simulated = (folder / "run.json").exists()
    found = simulated(folder) if is_simulated else trained(folder)
    if not found:
        raise ConfigError(f"nothing in {folder} that can be compared: no finished predictions", FORMS)
    site, arm = names.get("site"), names.get("arm")
    if site and is_simulated:
        return [_of_run(site, each) for each in found]
    return [replace(each, site=site or each.site, arm=arm or each.arm) for each in found]


def _of_run(run: str, each: Predicted) -> Predicted:
    """With the run's name before the sites'; a patient is still one patient."""
    patients = {case: each.patient(case) for case in each.cases}
    site, trained_at = f"{run}-{each.site}", f"{run}-{each.trained_at}"
    return replace(each, site=site, trained_at=trained_at, patients=patients)


def _split(place: str) -> tuple[dict[str, str], list[Path]]:
    """Names before the first ``=``, where they are such, and one or two folders."""
    words, equals, rest = place.partition("=")
    match = SITE_AND_ARM.fullmatch(words)
    if not equals or Path(place).exists():
        return {}, [Path(place)]
    folders = [Path(text) for text in rest.split(",")]
    if match is None or len(folders) > 2 or not all(folder.is_dir() for folder in folders):
        missing = [str(folder) for folder in folders if not folder.is_dir()]
        what = f"there is no folder {missing[0]}" if missing else f"{words!r} is not SITE:ARM"
        raise ConfigError(f"{place}: {what}", FORMS)
    return {name: text for name, text in match.groupdict().items() if text}, folders


def _given(names: Mapping[str, str], predictions: Path, references: Path) -> Predicted:
    if "arm" not in names:
        raise ConfigError(f"the predictions in {predictions} have no arm", FORMS)
    raw = references.parent
    descriptions = [folder / "dataset.json" for folder in (raw, predictions)]
    description = next((path for path in descriptions if path.exists()), descriptions[0])
    dataset = read_json(description, "dataset.json lies beside the references' folder, or in the predictions")
    images = raw / references.name.replace("labels", "images")
    return Predicted(
        site=names.get("tested", names["site"]),
        arm=names["arm"],
        predictions=predictions,
        references=references,
        dataset=dataset,
        images=images if images != references and images.is_dir() else None,
        patients=patients_of(raw),
        trained_at=names["site"],
        is_stock=names["arm"] == STOCK,
    )


def _check_references(found: Sequence[Predicted]) -> None:
    for each in found:
        if not each.cases:
            raise ConfigError(f"no *{each.dataset['file_ending']} in {each.predictions}", FORMS)
        for case in each.cases:
            if not each.reference(case).exists():
                raise ConfigError(
                    f"{each.prediction(case)} has no reference: {each.reference(case)} does not exist",
                    "each predicted case needs one of its name",
                )


def _check_once(found: Sequence[Predicted]) -> None:
    seen: dict[tuple[str, str, str, str], Predicted] = {}
    for each in found:
        for case in each.cases:
            first = seen.setdefault((each.site, each.trained_at or each.site, each.arm, case), each)
            if first is not each:
                raise ConfigError(
                    f"case {case} of site {each.site} is predicted twice by {each.arm}: "
                    f"in {first.predictions} and in {each.predictions}",
                    "give one of them a name of its own: NAME=FOLDER",
                )
