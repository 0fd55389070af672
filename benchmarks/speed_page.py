"""docs/results/speed.md and speed.json, from what each part has left behind."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evidence_page import NOTES, notes_below
from speed_settings import Settings

from nnunet_gml.simulation.record import this_machine
from nnunet_gml.versions import installed_versions

PARTS = ("steps", "memory", "stall", "wire", "scale", "schedule", "startup", "surfaces")
MISSED = "**missed**"
GATING = (
    "two scorings on arrival and three at the end, of 8 batches each, are 40 validation passes; an epoch is "
    "worth about 800 (250 training steps of three, and 50 of one). It comes once in a round of 10 epochs: "
    "less than 0.5 % of that. 1 % of an epoch would be two batches a scoring, and the 16 patches of "
    "today are few already to tell two networks apart."
)
LOSS = (
    "beside the networks there is the distillation, {}. The more classes, and the smaller the network, the "
    "more it weighs: see the [notes](speed-notes.md)."
)
REASONS: Mapping[tuple[str, str], str] = {
    ("wire", "float16 (default)"): "at the same rounds one fetch of float16 is a quarter of two transfers of "
    "float32, whatever the schedule; below that only fewer rounds or smaller payloads help.",
    ("wire", "int8"): "likewise an eighth; 5 % needs about 3 bits a weight, or fewer rounds.",
    ("schedule", "CPU of a draw, nobody away, 1,000 sites over 10"): "a draw sorts the sites' names: below "
    "0.1 ms at 1,000 sites, once a round, beside 40 ms of the courier.",
    ("steps", "frozen"): LOSS.format("one way"),
    ("steps", "mutual"): LOSS.format("both ways"),
    ("stall", "gating, of an epoch"): GATING,
}
"""Why a target is missed, and the physical limit: by part, and by a cell of the rows that it is about."""
ABOUT = """\
# Speed: beside stock nnU-Net, and beside FedAvg's bytes

Made by `make bench`. Ratios first; trust them more than the seconds. A target stands beside its number with
*met* or *missed*; below each part stands why it was missed.
"""
QUICK = "**Quick sizes, to see that the command works: these numbers mean nothing.**\n"
ASK_GPU = (
    "import torch; gpu = torch.cuda.get_device_properties(0); print(gpu.name, gpu.total_memory, sep='\\n')"
)
"""In a process of its own: this one would keep some of the GPU's memory."""
EMPTY_NOTES = f"\n{NOTES}\n\nNothing yet.\n"


def about_this_call(settings: Settings) -> dict[str, Any]:
    """Settings, versions and machine, for a part's JSON."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": settings.quick,
        "repetitions": settings.repetitions,
        "device": settings.device,
        "machine": machine(settings.device),
        "versions": installed_versions(),
    }


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, load, and on CUDA the GPU."""
    found = {**this_machine(), "load": round(os.getloadavg()[1], 1)}
    if device == "cuda":
        name, total = subprocess.check_output([sys.executable, "-c", ASK_GPU], text=True).splitlines()
        found |= {"gpu": name, "gpu_gib": round(int(total) / 2**30)}
    return found


def write_page(folder: Path, out: Path) -> None:
    """Write speed.md and speed.json from the parts in ``out``; what stands below `NOTES` is kept."""
    found = {part: json.loads(path.read_text()) for part in PARTS if (path := out / f"{part}.json").exists()}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "speed.md"
    target.write_text(page(found) + (notes_below(target) or EMPTY_NOTES))
    (folder / "speed.json").write_text(json.dumps(found, indent=1) + "\n")


def page(found: Mapping[str, Any]) -> str:
    """The whole page but for the notes."""
    missing = [part for part in PARTS if part not in found]
    sections = [ABOUT, f"Not measured: {', '.join(missing)}.\n" if missing else ""]
    for part, each in found.items():
        sections += section(part, each)
    return "\n".join(text for text in sections if text)


def section(part: str, each: Mapping[str, Any]) -> Iterator[str]:
    """One part: its tables, why targets are missed, and how it was made."""
    module = importlib.import_module(f"speed_{part}")
    text = module.tables(each["found"])
    yield f"## {module.TITLE}\n"
    yield QUICK if each["quick"] else ""
    yield text
    yield "".join(f"- {line}\n" for line in reasons(part, text))
    yield made(each)


def reasons(part: str, text: str, known: Mapping[tuple[str, str], str] = REASONS) -> list[str]:
    """For every missed row of a part's tables the reason, or that there is none yet; each once.

    >>> row = "| CPU | mutual | 2.3 | 2.1 | **missed** |"
    >>> reasons("steps", row, {("steps", "mutual"): "two networks."})
    ['mutual: two networks.']
    >>> reasons("steps", row, {})
    ['CPU, mutual, 2.3: no reason known yet.']
    """
    lines = []
    for line in text.splitlines():
        if line.startswith("|") and MISSED in line:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            told = [f"{cell}: {known[part, cell]}" for cell in cells if (part, cell) in known]
            lines += told or [f"{', '.join(_before_target(cells))}: no reason known yet."]
    return list(dict.fromkeys(lines))


def _before_target(cells: list[str]) -> list[str]:
    """The cells left of the target, which stands before the verdict."""
    place = next(number for number, cell in enumerate(cells) if MISSED in cell)
    return [cell for cell in cells[: place - 1] if cell not in ("", "-")]


def made(each: Mapping[str, Any]) -> str:
    """Machine and versions, in a sentence."""
    machine_ = each["machine"]
    gpu = f"{machine_['gpu']} ({machine_['gpu_gib']} GiB), " if "gpu" in machine_ else ""
    versions = ", ".join(f"{name} {version}" for name, version in each["versions"].items())
    return (
        f"{gpu}{machine_['cores']} CPU cores ({machine_['processor']}) with a load average of "
        f"{machine_['load']}; repetitions: {each['repetitions']}; {versions}; {each['made'][:10]}.\n"
    )
