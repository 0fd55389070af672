"""Feeds thousands of hostile inputs to one parser, and measures time and memory.

    python fuzz_process.py PARSER COUNT FOLDER

It prints JSON. A process of its own, so that its memory is nobody else's.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fuzz_parsers import Headers, Manifests, Parser, Sealed

SEED = 20261121
MOST_SECONDS = 5.0
STATUS = Path("/proc/self/status")


class HangError(Exception):
    """One input took too long."""


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise `HangError` after five seconds of this process's own time, however busy the machine is."""

    def late(number: int, frame: FrameType | None) -> None:
        raise HangError

    signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def most_memory() -> int:
    """The most bytes that this process ever held."""
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(parser: Parser, count: int) -> dict[str, object]:
    """Judge so many inputs; anything but a refusal or an acceptance ends the run."""
    verdicts: Counter[str] = Counter()
    slowest = 0.0
    parser.warm_up()
    before = most_memory()
    for number in range(count):
        case = parser.make(random.Random(SEED + number))
        started = time.process_time()
        try:
            with limited_time():
                verdicts[parser.judge(case)] += 1
        except parser.refusal as error:
            verdicts[error.rule] += 1
            assert str(error).isprintable(), (number, str(error))
            assert len(str(error)) < 2000, (number, str(error))
        except BaseException as error:
            raise RuntimeError(f"input {number} of seed {SEED}: {case!r:.2000}") from error
        slowest = max(slowest, time.process_time() - started)
    growth = (most_memory() - before) / 2**20
    return {"verdicts": verdicts, "slowest_seconds": slowest, "growth_mib": growth}


PARSERS: dict[str, Callable[[Path], Parser]] = {"manifests": Manifests, "headers": Headers, "sealed": Sealed}

if __name__ == "__main__":
    print(json.dumps(run(PARSERS[sys.argv[1]](Path(sys.argv[3])), int(sys.argv[2]))))
