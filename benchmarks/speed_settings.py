"""What every part of `python benchmarks/speed.py` is given, and how a number is held against its target."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import Figures


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        out: folder for what the parts leave behind; one JSON file per part.
        quick: sizes that take seconds, to see that the command works; its numbers mean nothing.
        repetitions: runs behind each median.
        device: ``cpu`` or ``cuda``.
    """

    out: Path
    quick: bool
    repetitions: int
    device: str


def verdict(value: float, target: float, limit: float | None = None) -> str:
    """Whether a value is at most its target, in a word.

    Args:
        value: what was measured; less is better.
        target: at most this is met.
        limit: what no implementation can be expected to beat, named in the word; None: there is none.

    Example:
        >>> verdict(1.35, 1.4, limit=1.33), verdict(1.5, 1.4), verdict(1.5, 1.4, limit=1.33)
        ('met', '**missed**', '**missed** (limit 1.33)')
        >>> verdict(float("nan"), 1.4)
        '**missed**'
    """
    if value <= target:
        return "met"
    return "**missed**" if limit is None else f"**missed** (limit {limit:g})"


def span(figures: Figures, form: str, unit: str = "") -> str:
    """Median and extremes, for a cell.

    Example:
        >>> span(Figures(0.5, 0.25, 1.0), "{:.2f}", " s")
        '0.50 s (0.25 to 1.00)'
    """
    median, least, most = (form.format(value) for value in (figures.median, figures.least, figures.most))
    return f"{median}{unit} ({least} to {most})"


def continued(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an interrupted call has left in a file, or else the work's result, which goes there.

    Args:
        path: a JSON file; whoever has finished all work removes it, so that the next call measures anew.
        work: measures for minutes.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(work()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found
