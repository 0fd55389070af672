"""Six simulated sites from HeadNeckContours: real contours by two raters, synthetic intensities.

    python benchmarks/headneck.py --out raw --seed 1

Sites differ in the rater whose contours they train on (and are tested against), in the scanner, and in the
number of patients. A patient is at one site only, and there in training, in validation, or held out.
The images are computed (`headneck_images`) from contours that are bent a little, otherwise for each seed; a
patient's image is the same whoever contoured it, but for the site's scanner. The contours are looked for in
the folder named by GML_DATA, else in ../shared/data next to the repository; without them this says so and
ends with exit code 0.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from headneck_images import SPACING_MM, Labels, Scanner, bent, best_shift, placed, synthesise

from nnunet_gml.simulation.raw_files import describe

FIRST_DATASET_ID = 611
RATERS = ("oncologist", "radiographer")
ORGANS = 15
"""Labels 1 to 15 are the organs at risk; the others only shape the image."""
HONEST_NAME = "real contours, synthetic intensities"
"""It stands at every table."""
SMALL_ORGANS = ("cochlea-lt", "cochlea-rt", "lens-lt", "lens-rt", "optic-nerve-lt", "optic-nerve-rt")


@dataclass(frozen=True)
class Site:
    """One simulated site: whose contours, which scanner, how many patients."""

    name: str
    rater: str
    scanner: Scanner
    training: int
    """Patients in training and validation; one of them validates."""
    test: int


SITES = (
    Site("onco_a", "oncologist", Scanner(0.8, 2.5, 6, 1.0, 0, 0.03, 30), training=4, test=2),
    Site("onco_b", "oncologist", Scanner(1.6, 2.5, 10, 0.85, 40, 0.08, 120), training=3, test=1),
    Site("onco_c", "oncologist", Scanner(1.2, 5.0, 5, 1.1, -20, 0.05, 60), training=2, test=1),
    Site("radio_a", "radiographer", Scanner(0.8, 2.5, 12, 1.0, 0, 0.03, 90), training=3, test=1),
    Site("radio_b", "radiographer", Scanner(2.0, 5.0, 6, 1.2, 20, 0.10, 30), training=2, test=1),
    Site("radio_c", "radiographer", Scanner(1.2, 2.5, 8, 0.75, -40, 0.06, 120), training=2, test=1),
)


@dataclass(frozen=True)
class Share:
    """The patients of one site."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def data_folder() -> Path:
    """The folder that should hold the contours (it may be missing)."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return Path(os.environ.get("GML_DATA", str(default))) / "HeadNeckContours"


def patient_of(scan: str) -> str:
    """The patient whom a scan shows: two scans of the set differ in a last letter only.

    >>> patient_of("0522c0727a")
    '0522c0727'
    """
    return scan.rstrip("ab") if scan[-2:-1].isdigit() else scan


def read_scans(data: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Scans per patient, and the patients with all organs by both raters, from ``cases.csv``.

    Scans with fewer than ten organs (of a short stretch of the neck) are left out.
    """
    contoured: dict[str, list[int]] = {}
    with (data / "cases.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        organs = list(reader.fieldnames or ())[5 : 5 + ORGANS]
        for row in reader:
            contoured.setdefault(row["patient"], []).append(sum(int(row[organ]) > 0 for organ in organs))
    scans: dict[str, list[str]] = {}
    for scan, counts in sorted(contoured.items()):
        if len(counts) == len(RATERS) and min(counts) >= 10:
            scans.setdefault(patient_of(scan), []).append(scan)
    whole = [name for name, own in scans.items() if all(min(contoured[scan]) == ORGANS for scan in own)]
    return scans, whole


def divide(patients: Sequence[str], whole: Sequence[str], seed: int) -> list[Share]:
    """Divide the patients among the sites; held out are only some with all organs. Same seed, same shares."""
    drawn = np.random.default_rng(seed)
    tests = drawn.permutation(sorted(whole)).tolist()[: sum(site.test for site in SITES)]
    rest = drawn.permutation(sorted(set(patients) - set(tests))).tolist()
    shares = []
    for site in SITES:
        test, tests = tests[: site.test], tests[site.test :]
        own, rest = rest[: site.training], rest[site.training :]
        shares.append(Share(tuple(own[1:]), tuple(own[:1]), tuple(test)))
    return shares


def label_names(data: Path) -> dict[str, int]:
    """Names and values of the organs at risk, in small letters, for dataset.json."""
    with (data / "cases.csv").open(newline="") as file:
        head = next(csv.reader(file))
    return {name.lower(): value for value, name in enumerate(head[5 : 5 + ORGANS], start=1)}


def raters_on_one_grid(data: Path, scan: str) -> dict[str, Labels]:
    """Both raters' maps of a scan, the radiographer's moved onto the oncologist's grid."""
    maps = {rater: _read(data / f"{scan}_{rater}.nii.gz") for rater in RATERS}
    first, second = (maps[rater] for rater in RATERS)
    return {RATERS[0]: first, RATERS[1]: placed(second, best_shift(first, second), first.shape)}


def bent_maps(data: Path, scan: str, seed: int) -> dict[str, Labels]:
    """Both raters' maps of a scan on one grid, bent alike."""
    maps = raters_on_one_grid(data, scan)
    random = np.random.default_rng((seed, zlib.crc32(scan.encode()), 2))
    return dict(zip(maps, bent(list(maps.values()), random), strict=True))


def make_case(data: Path, scan: str, site: Site, seed: int) -> tuple[np.ndarray, Labels]:
    """Image and training label of one scan at one site, z, y, x."""
    maps = bent_maps(data, scan, seed)
    first, second = (maps[rater] for rater in RATERS)
    image = synthesise(first, second, site.scanner, (seed, zlib.crc32(scan.encode())))
    own = maps[site.rater]
    return image, np.where(own <= ORGANS, own, 0).astype(np.uint8)


def write_dataset(data: Path, target: Path, site: Site, share: Share, seed: int) -> None:
    """Write one raw dataset in nnU-Net's layout, with its split and its patients."""
    scans, _ = read_scans(data)
    groups = {name: [s for p in getattr(share, name) for s in scans[p]] for name in share.__annotations__}
    for suffix, names in (("Tr", groups["training"] + groups["validation"]), ("Ts", groups["test"])):
        for scan in names:
            image, label = make_case(data, scan, site, seed)
            _write(image, target / f"images{suffix}" / f"{scan}_0000.nii.gz")
            _write(label, target / f"labels{suffix}" / f"{scan}.nii.gz")
    about = {
        "channel_names": {"0": "synthetic"},
        "labels": {"background": 0, **label_names(data)},
        "file_ending": ".nii.gz",
        "description": f"HeadNeckContours: {HONEST_NAME} ({site.rater}), slightly bent, seed {seed}",
        "reference": "arXiv:1809.04430",
        "licence": "CC BY 4.0",
    }
    patients = {scan: patient_of(scan) for names in groups.values() for scan in names}
    describe(target, about, [{"train": groups["training"], "val": groups["validation"]}], patients)


def _read(path: Path) -> Labels:
    voxels: Labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.uint8)
    return voxels


def _write(voxels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_MM[::-1])
    SimpleITK.WriteImage(image, str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the datasets that are not there yet, and print one line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("headneck-raw"), help="folder for the datasets")
    parser.add_argument("--seed", type=int, default=1, help="of division and images")
    parser.add_argument("--sites", nargs="+", choices=[site.name for site in SITES])
    args = parser.parse_args(argv)
    data = data_folder()
    if not (data / "cases.csv").is_file():
        sys.stdout.write(f"skipped: no contours in {data}; GML_DATA names the folder of HeadNeckContours\n")
        return 0
    scans, whole = read_scans(data)
    shares = divide(list(scans), whole, args.seed)
    for number, (site, share) in enumerate(zip(SITES, shares, strict=True)):
        target = args.out / f"Dataset{FIRST_DATASET_ID + number}_{site.name}"
        if target.exists() or (args.sites and site.name not in args.sites):
            continue
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_dataset(data, part, site, share, args.seed)
        part.rename(target)
        sys.stdout.write(
            f"{target}: {site.rater}, patients {len(share.training)} training, "
            f"{len(share.validation)} validation, {len(share.test)} held out\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
