"""Kills many processes of one site, each in the middle of one piece of work, and looks at what is left.

    python kill_process.py WORK FOLDER

FOLDER holds the files of `courier_kit.build_sites`; the number of kills is printed. A process of its own,
because it forks.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kill_kit import killed_after, killed_before, lines_of
from kill_works import (
    LARGE_BYTES,
    Collecting,
    Moving,
    Offering,
    OfferingFromAnotherDisk,
    Publishing,
    Refusing,
    Work,
)

WARM_UPS = 5
MOMENTS = 40
FEW_LINES = 30


def fatal_lines(work: Work, most: int | None = None) -> Iterator[bool]:
    """Kill before each line of the work, or before ``most`` of them; yields whether it came to that.

    Lines are counted when the folders are as full as they get; work that continues what was killed may
    have more, of which a quarter is tried, too.
    """
    for _ in range(WARM_UPS):
        work.prepare()
        count = lines_of(work)
    lines = range(1, count + count // 4)
    for line in sorted(random.Random(count).sample(lines, most)) if most else lines:
        work.prepare()
        was_killed = killed_before(line, work)
        yield was_killed
        if line > count and not was_killed:
            return


def fatal_moments(work: Work) -> Iterator[bool]:
    """Kill after random times, none longer than the work takes."""
    work.prepare()
    started = time.monotonic()
    killed_after(60, work)
    chance, longest = random.Random(20261121), time.monotonic() - started
    for _ in range(MOMENTS):
        work.prepare()
        yield killed_after(chance.uniform(0, longest), work)


WORKS: dict[str, Callable[[Path], tuple[Work, Callable[[Work], Iterator[bool]]]]] = {
    "offer": lambda folder: (Offering(folder), fatal_lines),
    "offer-large": lambda folder: (OfferingFromAnotherDisk(folder), fatal_moments),
    "publish": lambda folder: (Publishing(folder), fatal_lines),
    "publish-sftp": lambda folder: (Publishing(folder), lambda work: fatal_lines(work, FEW_LINES)),
    "collect": lambda folder: (Collecting(folder), fatal_lines),
    "refuse": lambda folder: (Refusing(folder), fatal_lines),
    "agent": lambda folder: (Moving(folder), fatal_lines),
    "collect-large": lambda folder: (Collecting(folder, LARGE_BYTES), fatal_moments),
    "collect-sftp": lambda folder: (Collecting(folder), lambda work: fatal_lines(work, FEW_LINES)),
}


def main(name: str, folder: Path) -> None:
    """Kill as often as the work has moments, and print how often that was."""
    work, kills = WORKS[name](folder)
    count = 0
    for was_killed in kills(work):
        count += was_killed
        work.look()
    work.finish()
    print(count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
