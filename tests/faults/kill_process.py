"""Kills many processes of one site, each in the middle of one piece of work, and looks at what is left.

    python kill_process.py WORK FOLDER MOMENTS

FOLDER holds the files of `courier_kit.build_sites`. MOMENTS is a number of lines of code, 0 for every line,
or ``times`` for random times. The number of kills is printed. A process of its own, because it forks.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kill_kit import killed_after, killed_before, lines_of, unharmed
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
TIMES = 40


def fatal_lines(work: Work, most: int = 0) -> Iterator[bool]:
    """Kill before each line of the work, or before ``most`` of them; yields whether it came to that.

    Lines are counted when the folders are as full as they get, and it goes on until the work outlives its
    killer.
    """
    for _ in range(WARM_UPS):
        work.prepare()
        count = lines_of(work)
        work.look()
    lines = range(1, 2 * count)
    for line in sorted(random.Random(count).sample(lines[:count], most)) if most else lines:
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
    for _ in range(TIMES):
        work.prepare()
        yield killed_after(chance.uniform(0, longest), work)


WORKS: dict[str, Callable[[Path], Work]] = {
    "offer": Offering,
    "offer-large": OfferingFromAnotherDisk,
    "publish": Publishing,
    "collect": Collecting,
    "collect-large": lambda folder: Collecting(folder, LARGE_BYTES),
    "refuse": Refusing,
    "agent": Moving,
}


def main(name: str, folder: Path, moments: str) -> None:
    """Kill as often as the work has moments, and print how often that was."""
    work = WORKS[name](folder)
    kills = fatal_moments(work) if moments == "times" else fatal_lines(work, int(moments))
    count = 0
    for was_killed in kills:
        count += was_killed
        work.look()
        work.prepare()
        unharmed(work)
        work.look()
    work.finish()
    print(count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
