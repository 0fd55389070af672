"""Raw datasets of several sites, and sites that plan together."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_gml.installed import command
from nnunet_gml.planning.fingerprint import summarise
from nnunet_gml.planning.pooling import Summary, read_summary
from peer_sync.documents import Document

MERGED = "Dataset600_merged"
LABELS = {"background": 0, "blob": 1}


def write_raw(
    raw: Path,
    dataset: str,
    intensities: Sequence[float],
    spacing: Sequence[float] = (2.0, 1.0, 1.0),
    shapes: Sequence[tuple[int, int, int]] = ((8, 12, 12),),
    channel: str = "CT",
    deviation: float = 30.0,
) -> Path:
    """One case for each mean intensity, as nnU-Net wants them."""
    folder = raw / dataset
    for number, mean in enumerate(intensities):
        shape = shapes[number % len(shapes)]
        random = np.random.default_rng([number, round(abs(mean))])
        image = random.normal(mean, deviation, shape).round().astype(np.float32)
        label = np.zeros(shape, dtype=np.uint8)
        label[1:-1, 1:-1, 1:-1] = 1
        name = f"{dataset.lower()}_{number:03d}"
        write_image(folder / "imagesTr" / f"{name}_0000.nii.gz", image, spacing)
        write_image(folder / "labelsTr" / f"{name}.nii.gz", label, spacing)
    describe(folder, len(intensities), channel)
    return folder


def write_image(path: Path, voxels: np.ndarray, spacing: Sequence[float]) -> None:
    """One NIfTI file; spacing in mm in the order of the array's axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(tuple(spacing)[::-1])
    SimpleITK.WriteImage(image, str(path))


def describe(folder: Path, cases: int, channel: str = "CT", labels: Mapping[str, int] = LABELS) -> None:
    """Write dataset.json."""
    content = {
        "channel_names": {"0": channel},
        "labels": dict(labels),
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def merge(raw: Path, datasets: Sequence[Path]) -> Path:
    """All cases of several datasets in one."""
    merged = raw / MERGED
    for kind in ("imagesTr", "labelsTr"):
        (merged / kind).mkdir(parents=True)
        for dataset in datasets:
            for path in (dataset / kind).iterdir():
                shutil.copyfile(path, merged / kind / path.name)
    description = json.loads((datasets[0] / "dataset.json").read_text())
    description["numTraining"] = len(list((merged / "labelsTr").iterdir()))
    (merged / "dataset.json").write_text(json.dumps(description))
    return merged


def hippocampus_sites(raw: Path) -> list[Path]:
    """The five simulated sites of the Hippocampus data, whole; skips the test where there are none."""
    place = os.environ.get("GML_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
    data = Path(place) / "Hippocampus"
    if not (data / "sites.csv").is_file():
        pytest.skip(f"no Hippocampus data in {data}; GML_DATA names the folder that holds Hippocampus/")
    cases: dict[str, list[str]] = {}
    with (data / "sites.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            cases.setdefault(row["site"], []).append(row["case"])
    folders = []
    for number, (site, names) in enumerate(sorted(cases.items()), 601):
        folder = raw / f"Dataset{number}_{site}"
        for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
            (folder / f"{kind}Tr").mkdir(parents=True)
            for name in names:
                (folder / f"{kind}Tr" / f"{name}{ending}").symlink_to(data / kind / f"{name}{ending}")
        describe(folder, len(names), "MRI", {"background": 0, "Anterior": 1, "Posterior": 2})
        folders.append(folder)
    return folders


def summaries(datasets: Sequence[Path]) -> list[Summary]:
    """What the sites would tell each other, sent as JSON and checked."""
    counts = {f"site{n}": len(list((d / "labelsTr").iterdir())) for n, d in enumerate(datasets)}
    found = []
    for site, dataset in zip(counts, datasets, strict=True):
        content = {"counts": counts, **summarise(dataset, sum(counts.values()))}
        sent = json.loads(json.dumps(content))
        found.append(read_summary(Document(site, "fingerprint", datetime.now(UTC), sent)))
    return found


def stock_fingerprint(folders: Mapping[str, str], merged: Path) -> dict:
    """nnU-Net's own fingerprint, by its own command."""
    stock(folders, "nnUNetv2_extract_fingerprint", "-d", "600", "-np", "2", "--no_pbar", "--clean")
    place = Path(folders["nnUNet_preprocessed"]) / merged.name / "dataset_fingerprint.json"
    return json.loads(place.read_text())


def stock_plans(folders: Mapping[str, str], merged: Path, name: str) -> dict:
    """nnU-Net's own plans from the fingerprint that is there."""
    stock(folders, "nnUNetv2_plan_experiment", "-d", "600", "-overwrite_plans_name", name)
    place = Path(folders["nnUNet_preprocessed"]) / merged.name / f"{name}.json"
    return json.loads(place.read_text().replace(name, "plans"))


def stock(folders: Mapping[str, str], name: str, *words: str) -> None:
    """One of nnU-Net's commands, which has to succeed."""
    done = subprocess.run(
        [command(name), *words], env={**os.environ, **folders}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def gml(folders: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The command ``nnunet-gml`` at a site with these folders."""
    return subprocess.run(
        [sys.executable, "-m", "nnunet_gml.cli", *words],
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
