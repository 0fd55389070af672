"""What a process costs, and what several runs amount to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

CHUNK_BYTES = 1 << 20
MEGABYTE = 1e6
MEBIBYTE_KIB = 1024


@dataclass(frozen=True)
class Figures:
    """Median and extremes of several runs."""

    median: float
    least: float
    most: float


def figures(values: Sequence[float]) -> Figures:
    """Median, smallest and largest.

    Example:
        >>> figures([3, 1, 2, 10])
        Figures(median=2.5, least=1, most=10)
    """
    return Figures(median(values), min(values), max(values))


def rate(size_bytes: int, seconds: float) -> float:
    """MB/s, of a million bytes each."""
    return size_bytes / MEGABYTE / seconds


def family(pid: int) -> list[int]:
    """A process and all its descendants; only the process itself where there is no /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its descendants have used so far."""
    ticks = 0
    for member in family(pid):
        ticks += sum(map(int, _stat(member)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, what: str) -> float:
    """Memory of a process and its descendants: ``VmRSS`` now, or ``VmHWM`` at most so far."""
    kibibytes = 0
    for member in family(pid):
        for line in _lines(Path(f"/proc/{member}/status")):
            if line.startswith(f"{what}:"):
                kibibytes += int(line.split()[1])
    return kibibytes / MEBIBYTE_KIB


def told(words: Sequence[str], variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object that a program says in its last line.

    Args:
        words: the program, and what it is given.
        variables: its environment; None: ours.

    Raises:
        RuntimeError: it failed; with what it wrote last.
    """
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            left, right = first.read(CHUNK_BYTES), second.read(CHUNK_BYTES)
            if left != right:
                return False
            if not left:
                return True


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name; zeros for a process that has ended."""
    text = "".join(_lines(Path(f"/proc/{pid}/stat")))
    return text.rpartition(")")[2].split() or ["0"] * 15


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
