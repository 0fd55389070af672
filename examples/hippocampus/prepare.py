#!/usr/bin/env python3
"""Build one nnU-Net raw dataset per simulated site from the real Hippocampus data.

The sites are simulated: all scans come from one source and were divided by intensity family and
by volume. Two scans can show the same subject, so every division here is made by subject: a
subject is either in training, or in validation, or held out, with all of its scans.

    python examples/hippocampus/prepare.py --sites A_u8 C_small E_large --out raw

The data are looked for in the folder named by GML_DATA, else in ../shared/data next to the
repository; without them the script says so and ends with exit code 0.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SITES = ("A_u8", "B_fhi", "C_small", "D_medium", "E_large")
LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
FIRST_DATASET_ID = 501


@dataclass(frozen=True)
class Division:
    """The subjects of one site: each is in exactly one of the three groups."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def data_folder() -> Path:
    """The folder that should hold the Hippocampus data (it may be missing)."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("GML_DATA", str(default))) / "Hippocampus"


def read_cases(data: Path) -> dict[str, dict[str, list[str]]]:
    """Cases per site and subject, from ``sites.csv``: ``{site: {subject: [case, ...]}}``."""
    cases: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    with (data / "sites.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            cases[row["site"]][row["subject"]].append(row["case"])
    return cases


def divide(
    subjects: Sequence[str],
    seed: int,
    test_share: float = 0.3,
    max_training: int | None = None,
    max_test: int | None = None,
) -> Division:
    """Divide subjects at random into training, validation (a fifth of training) and test.

    ``max_training`` caps training and validation together. Same seed, same division.
    """
    order = sorted(subjects)
    random.Random(seed).shuffle(order)
    test_count = max(1, round(test_share * len(order)))
    test, rest = order[:test_count][:max_test], order[test_count:][:max_training]
    validation_count = max(1, round(0.2 * len(rest)))
    return Division(
        training=tuple(sorted(rest[validation_count:])),
        validation=tuple(sorted(rest[:validation_count])),
        test=tuple(sorted(test)),
    )


def write_dataset(data: Path, target: Path, cases: Mapping[str, Sequence[str]], division: Division) -> None:
    """Write one raw dataset: scans for training, held-out scans, dataset.json, split and patients."""
    groups = {
        name: [case for subject in getattr(division, name) for case in sorted(cases[subject])]
        for name in ("training", "validation", "test")
    }
    _copy(data, target, "Tr", groups["training"] + groups["validation"])
    _copy(data, target, "Ts", groups["test"])
    description = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": len(groups["training"]) + len(groups["validation"]),
        "file_ending": ".nii.gz",
        "description": "One simulated site of Medical Segmentation Decathlon Task04_Hippocampus",
        "reference": "arXiv:1902.09063",
        "licence": "CC BY-SA 4.0",
    }
    _write_json(target / "dataset.json", description)
    _write_json(target / "splits_final.json", [{"train": groups["training"], "val": groups["validation"]}])
    _write_patients(target / "patients.csv", cases)


def _copy(data: Path, target: Path, suffix: str, cases: Sequence[str]) -> None:
    for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        folder = target / f"{kind}{suffix}"
        folder.mkdir(parents=True)
        for case in cases:
            shutil.copyfile(data / kind / f"{case}{ending}", folder / f"{case}{ending}")


def _write_patients(path: Path, cases: Mapping[str, Sequence[str]]) -> None:
    """Which subject each case shows, for statistics by subject."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "patient"))
        writer.writerows((case, subject) for subject in sorted(cases) for case in sorted(cases[subject]))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sites", nargs="+", choices=SITES, default=["A_u8", "C_small", "E_large"])
    parser.add_argument("--out", type=Path, default=Path("hippocampus-raw"), help="folder for the datasets")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--test-share", type=float, default=0.3, help="part of the subjects held out")
    parser.add_argument("--max-training", type=int, help="at most so many subjects not held out")
    parser.add_argument("--max-test", type=int, help="at most so many subjects held out")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the datasets asked for and print one line for each."""
    args = arguments(argv)
    data = data_folder()
    if not (data / "sites.csv").is_file():
        print(f"skipped: no Hippocampus data in {data}; set GML_DATA to the folder that holds Hippocampus/")
        return 0
    cases = read_cases(data)
    for site in args.sites:
        target = args.out / f"Dataset{FIRST_DATASET_ID + SITES.index(site)}_{site}"
        if target.exists():
            print(f"{target} exists already: left as it is; remove it to build it anew")
            continue
        division = divide(list(cases[site]), args.seed, args.test_share, args.max_training, args.max_test)
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_dataset(data, part, cases[site], division)
        part.rename(target)
        print(
            f"{target}: subjects {len(division.training)} training, {len(division.validation)} validation, "
            f"{len(division.test)} held out"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
