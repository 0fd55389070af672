#!/usr/bin/env python3
"""`make hippocampus`: three simulated sites of real MRI, stock nnU-Net against gossip, equal epochs.

Continues where it stopped. The table goes to docs/results/hippocampus.md with its command.
Without the data (see prepare.py) it says so and ends with exit code 0.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import prepare

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parents[2]
OUT = Path("hippocampus-run")
SITES = ("A_u8", "C_small", "E_large")
SEED = 1
OPTIONS = shlex.split(
    "--trainer nnUNetTrainer --trainer nnUNetTrainerGML --epochs 48 --iterations 50 "
    "--warmup-epochs 16 --epochs-per-round 4 --mutual-epochs 2 "
    f"--patch-size 40 56 40 --features 8 16 32 64 --batch-size 2 --seed {SEED} --out {OUT}"
)


def main() -> int:
    """Prepare, simulate, and write the results file."""
    raw = OUT / "raw"
    code = prepare.main(["--sites", *SITES, "--out", str(raw), "--seed", str(SEED)])
    datasets = [str(path) for path in sorted(raw.glob("Dataset*"))]
    if code or not datasets:
        return code
    options = ["simulate", *datasets, *OPTIONS]
    program = [sys.executable, "-m", "nnunet_gml.cli", *options, "--continue"]
    code = subprocess.run(program, check=False).returncode
    if code == 0:
        write_results(shlex.join(["nnunet-gml", *options]))
    return code


ABOUT = """\
# Hippocampus: three simulated sites of real MRI

Medical Segmentation Decathlon, Task04_Hippocampus (arXiv:1902.09063, CC BY-SA 4.0): crops of T1 MRI with
two classes. The three sites are simulated from one source (one intensity family, the smallest and the
largest third of the volumes); they are not hospitals. Divided by subject: training, validation and
held-out subjects never share one. The Dice below is on the held-out cases, without mirroring.

Both methods start from the same weights, draw the same patches in every epoch and train equally many
epochs; gossip's mutual epochs take about twice the time of stock ones. One seed and few subjects: a
difference of a hundredth is no evidence for either side.
"""


def write_results(command: str) -> None:
    """The table of the run, between what it is and how it was made."""
    target = REPOSITORY / "docs" / "results" / "hippocampus.md"
    record = json.loads((OUT / "run.json").read_text())
    table = (OUT / "table.md").read_text().partition("\n\n")[2]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    seconds = "\n".join(
        f"| {step['title']} | {step['seconds']:.0f} |" for step in record["steps"] if step["run"]
    )
    target.write_text(
        f"{ABOUT}\n{table}\n"
        f"| step | seconds |\n| --- | --- |\n{seconds}\n\n"
        f"On {os.cpu_count()} CPU cores, all sites side by side; {versions}.\n\n"
        "Made by `make hippocampus`, that is by\n\n"
        f"```\npython examples/hippocampus/prepare.py --sites {' '.join(SITES)} "
        f"--out {OUT}/raw --seed {SEED}\n{command}\n```\n"
    )


if __name__ == "__main__":
    sys.exit(main())
