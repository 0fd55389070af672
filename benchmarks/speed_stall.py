"""Part of `benchmarks/speed.py`: seconds per round in which a training waits for its exchange."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from measuring import figures, told
from speed_plans import SIZES, plan
from speed_settings import Settings, continued, span, verdict

from nnunet_gml.learning import GossipTrainer
from nnunet_gml.markdown import markdown_table

PART = "stall"
TITLE = "Stall: seconds of a round in which training waits"
WORKER = Path(__file__).with_name("speed_stall_worker.py")
NETWORKS = ("standard", "resenc-l")
QUICK_NETWORKS = ("small",)
CPU_PATCH = (32, 32, 64)
"""The full patch takes minutes a step on a CPU; nothing but gating depends on it."""
MOST_ROUNDS = {"cpu": 3, "cuda": 20}
LOOPBACK, FAR = "loopback", "20 Mbit/s, 80 ms"
LINES: dict[str, dict[str, float] | None] = {
    LOOPBACK: None,
    FAR: {"round_trip_seconds": 0.08, "bytes_per_second": 20e6 / 8},
}
A100_EPOCH_SECONDS = {"small": 9 * 3.6, "standard": 9 * 3.6, "resenc-l": 35 * 3.6}
"""nnU-Net's documentation (resenc_presets.md): 9 and 35 hours for 1,000 epochs on one A100."""
WAITS = ("offering", "collecting", "checking", "loading")
BESIDE = ("merging", "checkpoints", "picture")
STAGES = (*WAITS, "gating", *BESIDE)
MOST_WAIT, MOST_GATING = 0.005, 0.01
WAITING, GATING = "waiting, of a round", "gating, of an epoch"
ABOUT = """\
The real trainer and courier, on random data of the plan's shape: `nnUNetTrainerGML`, its hooks called in
nnU-Net's order, a round after every epoch, one training step per epoch, one thread, no torch.compile. The
networks are not trained; the peer's weights are ours, moved by 1 %, offered anew for every round by a site
with a server process of its own, over real SFTP. The peer is taken in whatever its Dice. Clocks run in the
training's own thread alone. {rounds} rounds after one that does not count, on {device}, patch {patches}.

*offering*: a copy of our weights; a thread makes the file of it. *collecting*: asking the courier what is
there. *checking*: every rule that reads the weights, and the memory of what was judged. *loading*: into the
peer's network, with an optimiser. *gating*: both networks on {batches} validation batches on arrival; at the
end of the stay both again, and the mean of both.
"""
READING = """\
The share is computed, not lived through: of a round of {epochs} epochs as long as those in nnU-Net's own
documentation (1,000 epochs on one A100 take 9 hours with the standard network, 35 with ResEnc-L), so
{lengths}. Gating is held against an epoch of {steps} training and {validations} validation steps of the
same network, computed from steps measured beside, on the same patch and device. On a small patch the
optimiser weighs more in a step, so that the share of a full patch is somewhat larger.
"""
REST = """\
What else a round asks of the training's thread, and is not in the target: *merging*, with the lists of
rounds; *checkpoints* for `--c` (two in a round; stock nnU-Net writes one every 50 epochs); *picture*:
gml_progress.png. Background: from the order until the weights are in the inbox, and CPU seconds of our
threads meanwhile. What they take from a training step by
sharing its process is not measured.
"""


@dataclass(frozen=True)
class Task:
    """What one process does.

    Attributes:
        folder: with the plans, see `speed_plans`; its federation lives beside them while it works.
        size: of `speed_plans.SIZES`.
        device: ``cpu`` or ``cuda``.
        patch: instead of the plan's; None: the plan's.
        rounds: that count.
        gate_batches: the default's, or fewer.
        line: to the peer, see `speed_line.line_to`; None: none.
    """

    folder: str
    size: str
    device: str
    patch: tuple[int, ...] | None
    rounds: int
    gate_batches: int
    line: dict[str, float] | None


def measure(settings: Settings) -> dict[str, Any]:
    """Every network over every line; an interrupted call is continued. JSON-able."""
    folder, sizes = settings.out / PART, QUICK_NETWORKS if settings.quick else NETWORKS
    for size in sizes:
        plan(SIZES[size], folder, settings.quick)
    rows = [
        {"size": size, "line": line, **continued(folder / f"{size}-{number}.json", partial(ask, each))}
        for size in sizes
        for number, (line, each) in enumerate(tasks(settings, size).items())
    ]
    shutil.rmtree(folder)
    return {"rows": rows, "rounds": len(rows[0]["rounds"]), "device": settings.device}


def tasks(settings: Settings, size: str) -> dict[str, Task]:
    """What is to be done for a network, by line."""
    patch = CPU_PATCH if settings.device == "cpu" and not settings.quick else None
    rounds = min(settings.repetitions, MOST_ROUNDS[settings.device])
    folder = str(settings.out / PART)
    return {
        name: Task(
            folder=folder,
            size=size,
            device=settings.device,
            patch=patch,
            rounds=rounds,
            gate_batches=1 if settings.quick or line else GossipTrainer.gate_batches,
            line=line,
        )
        for name, line in LINES.items()
    }


def ask(task: Task) -> dict[str, Any]:
    """Do a task in a process of its own. Raises RuntimeError with what it wrote last."""
    return told([sys.executable, str(WORKER), json.dumps(asdict(task))])


def seconds_in(row: Mapping[str, Any], names: Sequence[str]) -> float:
    """Of some stages together, median over the rounds."""
    return float(median(sum(each["stages"].get(name, 0.0) for name in names) for each in row["rounds"]))


def round_seconds(size: str) -> float:
    """A default round with epochs as nnU-Net's documentation states them."""
    return GossipTrainer.epochs_per_round * A100_EPOCH_SECONDS[size]


def epoch_seconds(row: Mapping[str, Any]) -> float:
    """nnU-Net's epoch of the same network, patch and device, computed from medians of its steps."""
    training, validation = row["steps_per_epoch"]
    return float(training * median(row["step_seconds"]) + validation * median(row["validation_seconds"]))


def tables(found: Mapping[str, Any]) -> str:
    """The section's Markdown."""
    rows = found["rows"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    patches = list(dict.fromkeys("x".join(map(str, row["patch"])) for row in rows))
    about = ABOUT.format(
        rounds=found["rounds"],
        device=found["device"],
        patches=" and ".join(patches),
        batches=rows[0]["gate_batches"],
    )
    training, validations = rows[0]["steps_per_epoch"]
    lengths = " and ".join(f"{round_seconds(size):,.0f} s ({SIZES[size].words})" for size in sizes)
    epochs = GossipTrainer.epochs_per_round
    reading = READING.format(epochs=epochs, lengths=lengths, steps=training, validations=validations)
    sections = [about, markdown_table(targets(rows)), reading, markdown_table(stages(rows)), REST]
    return "\n".join([*sections, markdown_table(background(rows))])


def name_of(row: Mapping[str, Any]) -> list[str]:
    """Network and line."""
    return [f"{SIZES[row['size']].words}, {row['parameters'] / 1e6:.0f} M", row["line"]]


def targets(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Shares of a round and of an epoch."""
    cells = [["network", "line", "what", "seconds", "share", "target", ""]]
    for row in rows:
        for what, names, target in (
            (WAITING, WAITS, f"{MOST_WAIT:.1%}"),
            ("with merging, checkpoints and picture", (*WAITS, *BESIDE), "-"),
        ):
            seconds = seconds_in(row, names)
            share = seconds / round_seconds(row["size"])
            held = verdict(share, MOST_WAIT) if what == WAITING else ""
            cells.append([*name_of(row), what, f"{seconds:.2f}", f"{share:.2%}", target, held])
    for row in rows:
        if row["line"] == LOOPBACK:
            seconds = seconds_in(row, ["gating"])
            share = seconds / epoch_seconds(row)
            held = verdict(share, MOST_GATING)
            cells.append(
                [*name_of(row), GATING, f"{seconds:.2f}", f"{share:.1%}", f"{MOST_GATING:.0%}", held]
            )
    return cells


def stages(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Seconds of every stage; gating only where all batches were looked at."""
    cells = [["network", "line", *STAGES]]
    for row in rows:
        cells.append(name_of(row))
        for name in STAGES:
            spent = figures([each["stages"].get(name, 0.0) for each in row["rounds"]])
            is_whole = name != "gating" or row["line"] == LOOPBACK
            cells[-1].append(span(spent, "{:.3f}") if is_whole else "-")
    return cells


def background(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What goes on beside the training."""
    cells = [["network", "line", "until the weights are there, s", "CPU s of the courier"]]
    for row in rows:
        each = [figures([r["background"][key] for r in row["rounds"]]) for key in ("seconds", "cpu_seconds")]
        cells.append([*name_of(row), *(span(f, "{:.2f}") for f in each)])
    return cells
