"""The results of `make bench-payload` as a page of Markdown."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from reconstruction import Journey, Loss, mean

from nnunet_gml.markdown import markdown_table

TYPES = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Size:
    """Bytes of one network; no checkpoint, if it was not trained."""

    network: str
    parameters: int
    checkpoint_bytes: int | None
    payload_bytes: dict[str, int]


@dataclass
class Row:
    """Networks of one kind after one journey; an older offer of theirs has no journey to time."""

    networks: str
    payload: str
    losses: list[Loss] = field(default_factory=list)
    journeys: list[Journey] = field(default_factory=list)


BYTES = """\
Exact, and known from names, shapes and types alone. In brackets: relative to nnU-Net's own
`checkpoint_final.pth`, which holds the optimiser's momentum as well.
"""
LOST = """\
The network that was written against what a peer's reader made of the file. *Weights* and *logits*: norm of
the difference relative to the norm, over all weights, and over all voxels and classes of all cases. *Voxels*:
those whose class changes. *Dice*: change of the mean over cases. Of several networks: the mean, and in
brackets the one that is furthest from 0.
"""
SECONDS = """\
Medians of {timings} runs per network (mean over networks): cast and write to disk; read with every check that
a peer's weights go through.
"""


def page(about: str, classes: Sequence[str], sizes: Sequence[Size], rows: Sequence[Row], timings: int) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("nnunetv2", "torch", "safetensors"))
    machine = f"{os.cpu_count()} CPU cores with a load average of {os.getloadavg()[1]:.1f}"
    losses = [[*_names(row), *loss_cells(row.losses, len(classes))] for row in rows]
    seconds = [[*_names(row), *time_cells(row.journeys)] for row in rows if row.journeys]
    sections = [
        about,
        "## Bytes",
        BYTES,
        markdown_table([["network", "parameters", "checkpoint", *TYPES], *map(size_cells, sizes)]),
        "## What is lost",
        LOST,
        markdown_table(
            [["networks", "payload", "weights", "logits", "voxels", *(f"Dice {c}" for c in classes)], *losses]
        ),
        f"Dice before: {dice_before(rows, classes)}.\n",
        "## Seconds",
        SECONDS.format(timings=timings),
        markdown_table([["networks", "payload", "MB", "write", "read and check"], *seconds]),
        f"On {machine}; python {platform.python_version()}, {versions}.\n",
    ]
    return "\n".join(section if section.endswith("\n") else f"{section}\n" for section in sections)


def size_cells(size: Size) -> list[str]:
    """One network's bytes, and how they compare with its checkpoint's."""
    cells = [size.network, f"{size.parameters:,}"]
    cells.append(f"{size.checkpoint_bytes:,}" if size.checkpoint_bytes else "-")
    for dtype in TYPES:
        payload_bytes = size.payload_bytes[dtype]
        share = f" ({payload_bytes / size.checkpoint_bytes:.1%})" if size.checkpoint_bytes else ""
        cells.append(f"{payload_bytes:,}{share}")
    return cells


def loss_cells(losses: Sequence[Loss], classes: int) -> list[str]:
    """What a row's networks have lost."""
    return [
        spread([loss.weights for loss in losses], "{:.1e}"),
        spread([loss.logits for loss in losses], "{:.1e}"),
        spread([loss.voxels for loss in losses], "{:.4%}"),
        *(spread([loss.dice_change[c] for loss in losses], "{:+.5f}") for c in range(classes)),
    ]


def time_cells(journeys: Sequence[Journey]) -> list[str]:
    """Size and seconds, means of a row's networks."""
    return [
        f"{mean([journey.file_bytes for journey in journeys]) / 1e6:.2f}",
        f"{mean([journey.encode_seconds for journey in journeys]):.3f} s",
        f"{mean([journey.decode_seconds for journey in journeys]):.3f} s",
    ]


def spread(numbers: Sequence[float], form: str) -> str:
    """The mean; of several numbers also the one furthest from 0.

    >>> spread([0.5, -1.5], "{:+.2f}"), spread([0.0, 0.0], "{:+.2f}")
    ('-0.50 (-1.50)', '0')
    """
    known = [number for number in numbers if not math.isnan(number)]
    if not known:
        return "-"
    if not any(known):
        return "0"
    cell = form.format(mean(known))
    return cell if len(known) == 1 else f"{cell} ({form.format(max(known, key=abs))})"


def dice_before(rows: Sequence[Row], classes: Sequence[str]) -> str:
    """Mean Dice of each kind of network, before any journey."""
    kinds = {row.networks: row.losses for row in reversed(rows)}
    texts = []
    for networks, losses in reversed(kinds.items()):
        means = (mean([loss.dice[c] for loss in losses]) for c in range(len(classes)))
        texts.append(f"{networks}: {', '.join(f'{c} {m:.4f}' for c, m in zip(classes, means, strict=True))}")
    return "; ".join(texts)


def _names(row: Row) -> list[str]:
    """Networks and payload; the type that was really written, where it is another."""
    written = sorted({journey.written for journey in row.journeys} - {row.payload})
    return [row.networks, row.payload + "".join(f", some written as {dtype}" for dtype in written)]
