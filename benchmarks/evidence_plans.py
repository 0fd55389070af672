"""The experiments behind the tables: data, arms, and sizes that two CPU cores can bear."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import headneck

from nnunet_gml.phantom import write_dataset

ROOT = Path(__file__).resolve().parents[1]

ARMS: Mapping[str, str] = {
    "individual": "individual=nnUNetTrainer",
    "ensemble": "ensemble",
    "pooled": "pooled",
    "fedavg": "fedavg=nnUNetTrainerFedAvg",
    "gossipavg": "gossipavg=nnUNetTrainerGossipAverage",
    "mutual_lean": "mutual_lean=nnUNetTrainerGML,merge=lean",
    "frozen_lean": "frozen_lean=nnUNetTrainerGMLFrozen,merge=lean",
    "contrastive_lean": "contrastive_lean=nnUNetTrainerGCML,merge=lean",
    "mutual_select": "mutual_select=nnUNetTrainerGML,merge=select",
    "frozen_select": "frozen_select=nnUNetTrainerGMLFrozen,merge=select",
    "fedprox": "fedprox=nnUNetTrainerFedProx",
    "mutual": "mutual=nnUNetTrainerGML,merge=none",
    "frozen": "frozen=nnUNetTrainerGMLFrozen,merge=none",
    "mutual_best": "mutual_best=nnUNetTrainerGML,merge=best",
    "mutual_weighted": "mutual_weighted=nnUNetTrainerGML,merge=weighted",
    "mutual_no_trust": "mutual_no_trust=nnUNetTrainerGML,merge=lean,uses_trust=false",
    "mutual_gt": "mutual_gt=nnUNetTrainerGML,merge=lean,mask=gt",
    "mutual_union": "mutual_union=nnUNetTrainerGML,merge=lean,mask=union",
}
"""Every arm by the name that a command line may use."""
REDUCED = (
    "individual",
    "ensemble",
    "pooled",
    "fedavg",
    "gossipavg",
    "frozen_lean",
    "mutual_lean",
    "contrastive_lean",
)
TAKEN_APART = (
    "individual",
    "ensemble",
    "fedavg",
    "gossipavg",
    "mutual_lean",
    "mutual_no_trust",
    "mutual_gt",
    "mutual_union",
    "frozen_lean",
)
ALL_LABELS = "all-labels"
MISSING_SITE, MISSING_ORGAN = "north", "parotids"


@dataclass(frozen=True)
class Part:
    """One kind of run in an experiment; ``fixed``: its arms are not for the command line to choose."""

    name: str = ""
    options: tuple[str, ...] = ()
    arms: tuple[str, ...] = REDUCED
    fixed: bool = False


@dataclass(frozen=True)
class Experiment:
    """Data, sizes, and what the page says about them.

    Attributes:
        page: file name of the results page.
        about: Markdown that says what the data are and what was reduced.
        prepare: writes the raw datasets of one seed into a folder and returns them; none without data.
        options: of `nnunet-gml simulate`.
        small: classes that the page shows apart.
        missing: site and class that one part trains without.
        honest_name: what the data are, at every table.
        whole: the arm that all others are compared with, where the page takes the method apart.
    """

    page: str
    about: str
    prepare: Callable[[Path, int], list[Path]]
    options: tuple[str, ...]
    parts: tuple[Part, ...] = field(default=(Part(),))
    small: tuple[str, ...] = ()
    missing: tuple[str, str] | None = None
    honest_name: str = ""
    whole: str = ""


def prepare_hippocampus(raw: Path, seed: int, further: Sequence[str] = ()) -> list[Path]:
    """All five simulated sites; who trains and who is held out is drawn by the seed."""
    path = ROOT / "examples" / "hippocampus" / "prepare.py"
    specification = importlib.util.spec_from_file_location("prepare_hippocampus", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    module.main(["--sites", *module.SITES, "--out", str(raw), "--seed", str(seed), *further])
    return sorted(raw.glob("Dataset*"))


def prepare_few(raw: Path, seed: int) -> list[Path]:
    """The same sites and held-out subjects, with eight subjects each to train and validate with."""
    return prepare_hippocampus(raw, seed, ("--max-training", "8"))


def prepare_headneck(raw: Path, seed: int) -> list[Path]:
    """All six sites; which patients they have is drawn by the seed."""
    headneck.main(["--out", str(raw), "--seed", str(seed)])
    return sorted(raw.glob("Dataset*"))


def prepare_phantom(raw: Path, seed: int) -> list[Path]:
    """The three built-in sites, 10 patients to train with and 6 held out; other patients for each seed."""
    for number, site in enumerate(("north", "east", "south")):
        if not (raw / f"Dataset{901 + number}_{site}").exists():
            part = write_dataset(raw / ".part", 901 + number, site, seed, training_cases=10, test_cases=6)
            cases = sorted(path.name.removesuffix(".nii.gz") for path in part.glob("labelsT?/*.nii.gz"))
            lines = [f"{case},{case}-of-seed-{seed}\n" for case in cases]
            (part / "patients.csv").write_text("case,patient\n" + "".join(lines))
            part.replace(raw / part.name)
    return sorted(raw.glob("Dataset*"))


HIPPOCAMPUS = """\
# The method on real MRI: Hippocampus, five simulated sites

Medical Segmentation Decathlon, Task04_Hippocampus (arXiv:1902.09063, CC BY-SA 4.0): 211 crops of T1 MRI with
two classes. The five sites are simulated from one hospital's data (two intensity families, thirds by volume);
they are not hospitals. Divided by subject, by the seed of the run: training, validation and held-out subjects
never share one.

Reduced for a CPU: a network of three stages (8, 16, 32 features), patches of 32x40x32 voxels, a short
training, prediction without mirroring, fold 0 only. Absolute numbers are far from nnU-Net's best.
"""
FEW = (
    HIPPOCAMPUS.replace("five simulated sites\n", "five simulated sites with few cases\n")
    + """\
Each site has eight subjects: six to train with, two to validate with. Held-out subjects are those of the
[larger experiment](method-hippocampus.md).
"""
)
PARTS = (
    FEW.replace("# The method on real MRI", "# Which part of the method does what")
    + """\
The method as it is by default is *mutual_lean*. Each of the arms below it does one thing otherwise: no trust
(a peer is fully believed in every class), another mask (*gt*: where the contour is; *union*: where contour
or either network say that the class is; the default, *agree*: inside the union, where the teacher is right),
or a peer that only teaches (*frozen*).
"""
)
HEADNECK = """\
# The method on real contours: head and neck, six simulated sites

**Real contours, synthetic intensities.** HeadNeckContours (Nikolov et al., arXiv:1809.04430, CC BY 4.0):
contours of 15 organs at risk by two raters, without images. Both raters' contours are bent alike, 4 mm at
most, in another way for each seed; the CT-like images are computed from both, half each
(`benchmarks/headneck_images.py`), with contrasts far above those of soft tissue in
CT, so that a small network learns in minutes: Dice says nothing about real CT. Three sites
train on, and are tested against, the oncologist's contours, three the radiographer's; scanners (kernel, slice
thickness, noise, streaks from dense bone, contrast) differ; sites have 2 to 4 patients to train and validate
with. 23 patients; each
is at one site only, in training, in validation or held out, drawn by the seed of the run. Three scans of a
short stretch of the neck are left out; only patients with all organs are held out. One seed holds out 7
patients: their smallest possible p is 2/2^7 = 0.016, and Holm's correction over the seven arms that
the reduced matrix compares with *individual* makes it 0.11. With one seed none of them can reach p < 0.05.

Left and right are classes of their own, so every arm trains without mirroring, as nnU-Net's own
nnUNetTrainerNoMirroring does. Reduced for a CPU: contours on voxels of 2x2x2.5 mm, networks on 3.5 mm (a
cochlea is two such voxels), of four stages (8 to 64 features), patches of 40x40x40 voxels, a short training,
fold 0 only. All arms use AdamW as nnU-Net's own nnUNetTrainerAdam: with nnU-Net's SGD such a small network
had learnt none of the smaller organs after 1,920 steps.
"""
HEADNECK_PHANTOM = """\
# The method on computed heads: three simulated sites

**Computed contours, computed intensities: no patient.** The built-in phantom (`nnunet_gml/phantom.py`), which
needs no data: five organs, a bent anatomy for each patient, three sites with a scanner and a contouring style
of their own. 10 patients to train with and 6 held out at each site, other ones for each seed.
"""
PARTIAL = f"""\
# Partial labels: one site does not contour one organ

The built-in phantom (computed images, no patient): three sites, five organs. The training labels of the site
{MISSING_SITE} lack the {MISSING_ORGAN}: they are background there, and federation.toml says so. Its held-out
labels keep them. How well do its networks segment what nobody contoured there?
"""
PHANTOM_SIZES = tuple(
    shlex.split(
        "--epochs 40 --iterations 30 --warmup-epochs 14 --epochs-per-round 2 --mutual-epochs 2 "
        "--patch-size 32 32 32 --features 16 32 64 --batch-size 2 --learning-rate 0.05"
    )
)
HIPPOCAMPUS_SIZES = tuple(
    shlex.split(
        "--epochs 30 --iterations 40 --warmup-epochs 10 --epochs-per-round 2 --mutual-epochs 1 "
        "--patch-size 32 40 32 --features 8 16 32 --batch-size 2 --learning-rate 0.05"
    )
)
EXPERIMENTS: Mapping[str, Experiment] = {
    "hippocampus": Experiment(
        "method-hippocampus.md",
        HIPPOCAMPUS,
        prepare_hippocampus,
        HIPPOCAMPUS_SIZES,
    ),
    "few": Experiment("method-few-cases.md", FEW, prepare_few, HIPPOCAMPUS_SIZES),
    "parts": Experiment(
        "method-parts.md",
        PARTS,
        prepare_few,
        HIPPOCAMPUS_SIZES,
        parts=(Part(arms=TAKEN_APART),),
        whole="mutual_lean",
    ),
    "headneck": Experiment(
        "headneck.md",
        HEADNECK,
        prepare_headneck,
        tuple(
            shlex.split(
                "--epochs 40 --iterations 40 --warmup-epochs 14 --epochs-per-round 2 --mutual-epochs 1 "
                "--spacing 3.5 3.5 3.5 --patch-size 40 40 40 --features 8 16 32 64 --batch-size 2 "
                "--optimizer adam --learning-rate 0.003 --no-mirroring"
            )
        ),
        small=headneck.SMALL_ORGANS,
        honest_name=headneck.HONEST_NAME,
    ),
    "headneck-phantom": Experiment(
        "headneck-phantom.md",
        HEADNECK_PHANTOM,
        prepare_phantom,
        PHANTOM_SIZES,
        honest_name="computed contours, computed intensities",
    ),
    "partial": Experiment(
        "partial-labels.md",
        PARTIAL,
        prepare_phantom,
        PHANTOM_SIZES,
        parts=(
            Part(
                options=("--unlabelled", f"{MISSING_SITE}={MISSING_ORGAN}"),
                arms=("individual", "fedavg", "gossipavg", "mutual", "mutual_lean"),
            ),
            Part(ALL_LABELS, arms=("individual",), fixed=True),
        ),
        missing=(MISSING_SITE, MISSING_ORGAN),
    ),
}
