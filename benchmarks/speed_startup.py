"""Part ``startup``: the first step of the real command, the look-up of the trainer, and imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measuring import figures, told
from speed_settings import Settings, span, verdict

from nnunet_gml.installed import command, trainers_folder
from nnunet_gml.markdown import markdown_table

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # builders of data and sites live there

PART = "startup"
TITLE = "Start-up"
HELP = "`nnunet-gml --help`"
HELP_TARGET_SECONDS = 0.5
HEAVY = ("torch", "nnunetv2", "numpy", "pandas", "scipy", "matplotlib", "monai", "SimpleITK", "paramiko")
STOCK, GML = TRAINERS = ("nnUNetTrainer", "nnUNetTrainerGML")
FIRST_STEP = """
import json, os, time
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
train_step = nnUNetTrainer.train_step
def first_step(self, batch):
    train_step(self, batch)
    told = {"wall": time.time() - float(os.environ["SPEED_START"]), "cpu": time.process_time()}
    print("\\n" + json.dumps(told), flush=True)
    os._exit(0)
nnUNetTrainer.train_step = first_step
run_training_entry()
"""
"""nnUNetv2_train, which ends after the first step and says when that was; without a peer GML's is stock's."""
LOOK_UP = """
import json, sys, time
from contextlib import redirect_stdout
from io import StringIO
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
wall, cpu = time.perf_counter(), time.process_time()
with redirect_stdout(StringIO()):
    recursive_find_trainer_class_by_name(sys.argv[1])
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""
IMPORTED = """
import json, sys
from nnunet_gml.cli import parser
parser().format_help()
print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))
"""
ABOUT = """\
Each run is a fresh process; all take turns, after a first turn that does not count. *Wall*: what a user
waits, with whatever else the machine does; *CPU*: seconds of the process, which other work disturbs least,
and of which the ratios are. Medians (least to most).

*First step*: from the start of `nnUNetv2_train` to the end of its first training step, on a tiny phantom
(small network, data loaded in the process itself, on {device}); for GML with keys, embedded server and
courier, whose peer is away, and with its {gate_batches} validation patches for the gate. *Look-up*: nnU-Net's
own search for the class; it imports all of its own trainers before it looks into the folder of external ones.
"""


def measure(settings: Settings) -> dict[str, Any]:
    """All of it."""
    folder = settings.out / PART
    runs: dict[str, Callable[[], Mapping[str, float]]] = {
        "`python -c pass`": partial(timed, [sys.executable, "-c", "pass"]),
        "`import nnunet_gml`": partial(timed, [sys.executable, "-c", "import nnunet_gml"]),
        HELP: partial(timed, [command("nnunet-gml"), "--help"]),
    }
    variables = {**os.environ, "nnUNet_extTrainer": str(trainers_folder())}
    for trainer in TRAINERS:
        runs[f"look-up of {trainer}"] = partial(started, [sys.executable, "-c", LOOK_UP, trainer], variables)
    variables = prepared(folder)
    for trainer in TRAINERS:
        words = ["901", "3d_small", "0", "-tr", trainer, "-device", settings.device]
        runs[f"first step of {trainer}"] = partial(
            started, [sys.executable, "-c", FIRST_STEP, *words], variables
        )
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in runs}
    for repetition in range(settings.repetitions + 1):
        for name, run in runs.items():
            seconds = run()
            if repetition:
                found[name].append(seconds)
    heavy = subprocess.check_output([sys.executable, "-c", IMPORTED, *HEAVY], text=True)
    return {"seconds": found, "heavy": json.loads(heavy), "device": settings.device}


def timed(words: Sequence[str]) -> dict[str, float]:
    """Wall and CPU seconds of a command. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}


def started(words: Sequence[str], variables: Mapping[str, str]) -> dict[str, float]:
    """The seconds that a command says itself; it is told when it was started."""
    return told(words, {**variables, "SPEED_START": str(time.time())})


def prepared(folder: Path) -> dict[str, str]:
    """A preprocessed phantom, and two sites with servers; the variables that a training needs."""
    from courier_kit import PLANS, build_sites
    from nnunet_kit import CONFIGURATION, folders, plans_of, preprocess

    from nnunet_gml.planning.plans import plans_digest
    from peer_sync.site import SITE_VARIABLE

    data, sites = folder / "data", folder / "sites"
    if not data.exists():
        for place in (data, sites):
            place.mkdir(parents=True)
        preprocess(data, "labels")
        build_sites(sites, served=True)
        federation = sites / "federation.toml"
        digest = plans_digest(*plans_of(data), CONFIGURATION)
        federation.write_text(federation.read_text().replace(PLANS, digest))
    return {
        **os.environ,
        **folders(data),
        "nnUNet_extTrainer": str(trainers_folder()),
        "nnUNet_n_proc_DA": "0",
        SITE_VARIABLE: str(sites / "north.toml"),
    }


def tables(found: Mapping[str, Any]) -> str:
    """The section."""
    from nnunet_gml.learning import GossipTrainer

    rows = [row(found["seconds"], name) for name in found["seconds"]]
    heavy = ", ".join(found["heavy"]) or "none of them"
    return "\n".join(
        [
            ABOUT.format(device=found["device"].upper(), gate_batches=GossipTrainer.gate_batches),
            markdown_table([["", "ratio to stock", "target", "", "wall", "CPU"], *rows]),
            f"Of {', '.join(HEAVY)} {HELP} imports: {heavy}.\n",
        ]
    )


def row(seconds: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> list[str]:
    """One command; the ratio is that of CPU seconds, turn by turn."""
    wall, cpu = (figures([each[kind] for each in seconds[name]]) for kind in ("wall", "cpu"))
    ratio, target, met = "-", "-", "-"
    if name == f"first step of {GML}":
        stock = seconds[name.replace(GML, STOCK)]
        own = [a["cpu"] / b["cpu"] for a, b in zip(seconds[name], stock, strict=True)]
        ratio = span(figures(own), "{:.2f}")
    if name == HELP:
        target, met = f"{HELP_TARGET_SECONDS:g} s wall", verdict(wall.median, HELP_TARGET_SECONDS)
    return [name, ratio, target, met, span(wall, "{:.2f}", " s"), span(cpu, "{:.2f}", " s")]
