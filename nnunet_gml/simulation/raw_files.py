"""Files of a raw dataset that a simulation writes itself: links to cases, dataset.json, folds, patients."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_gml.planning.planned import raw_description
from peer_sync.errors import ConfigError


def labelled_cases(raw: Path) -> list[str]:
    """The training cases of a raw dataset that have a label, sorted.

    Raises:
        ConfigError: there are none, or dataset.json names its files itself.
    """
    about = raw_description(raw)
    if "dataset" in about:
        raise ConfigError(
            f"{raw}/dataset.json lists its files", "a simulation needs them in imagesTr, labelsTr"
        )
    ending = str(about["file_ending"])
    found = sorted(path.name.removesuffix(ending) for path in (raw / "labelsTr").glob(f"*{ending}"))
    if not found:
        raise ConfigError(f"{raw}/labelsTr has no case", f"expected files that end with {ending}")
    return found


def link(path: Path, target: Path) -> None:
    """A symbolic link, unless there is one."""
    if not path.is_symlink():
        path.symlink_to(target)


def link_cases(raw: Path, target: Path, suffix: str, cases: Sequence[str]) -> None:
    """Link images and labels of training cases into ``imagesTr`` and ``labelsTr``, or ``Ts``.

    Raises:
        ConfigError: a case has no image.
    """
    ending = str(raw_description(raw)["file_ending"])
    for kind in ("images", "labels"):
        (target / f"{kind}{suffix}").mkdir(parents=True, exist_ok=True)
    for case in cases:
        images = sorted((raw / "imagesTr").glob(f"{_plain(case)}_????{ending}"))
        if not images:
            raise ConfigError(f"{raw}/imagesTr has no image of {case}", f"expected {case}_0000{ending}")
        for path in images:
            link(target / f"images{suffix}" / path.name, path.resolve())
        link(target / f"labels{suffix}" / f"{case}{ending}", (raw / "labelsTr" / f"{case}{ending}").resolve())


def _plain(name: str) -> str:
    """A name as a pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def describe(
    target: Path,
    about: Mapping[str, Any],
    splits: Sequence[Mapping[str, Sequence[str]]],
    patients: Mapping[str, str],
) -> None:
    """Write dataset.json, splits_final.json and patients.csv of a raw dataset whose cases are there.

    Args:
        target: the dataset's folder.
        about: content of dataset.json; the number of training cases is counted.
        splits: for each fold the cases to train (``train``) and to validate (``val``) with; none: no file.
        patients: case to patient.
    """
    count = len(list((target / "labelsTr").iterdir()))
    write_json(target / "dataset.json", {**about, "numTraining": count})
    if splits:
        write_json(target / "splits_final.json", [dict(split) for split in splits])
    with (target / "patients.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "patient"))
        writer.writerows(sorted(patients.items()))


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write a file for people and nnU-Net."""
    path.write_text(json.dumps(content, indent=1) + "\n")
