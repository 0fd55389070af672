"""Kills a process before any line of peer_sync that it would run: fork, count lines, SIGKILL.

To be used in a process without threads, because it forks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import peer_sync

PACKAGE = str(Path(peer_sync.__file__).parent)


class Trap:
    """Counts the lines that run, and kills the process before one of them.

    Args:
        fatal: number of this line; 0 kills nobody.
    """

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.count = 0

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        """For sys.settrace: only the package's own code is counted."""
        return self.line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def line(self, frame: FrameType, event: str, argument: object) -> Any:
        """One line more."""
        if event == "line":
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line


def lines_of(work: Callable[[], object]) -> int:
    """How many lines ``work`` runs, in a process of its own."""
    reader, writer = os.pipe()

    def counted() -> None:
        trap = Trap(0)
        _traced(trap, work)
        os.write(writer, str(trap.count).encode())

    assert not _fork(counted)
    os.close(writer)
    with os.fdopen(reader) as file:
        return int(file.read())


def killed_before(line: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a process that is killed before its ``line``-th line; false when it came to its end."""
    return _fork(lambda: _traced(Trap(line), work))


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Run ``work`` in a process that is killed after some time; false when it came to its end."""

    def limited() -> None:
        watch = threading.Thread(target=_kill_later, args=[seconds], daemon=True)
        watch.start()
        work()

    return _fork(limited)


def unharmed(work: Callable[[], object]) -> None:
    """Run ``work`` in a process that nobody kills."""
    _fork(work)


def _kill_later(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def _traced(trap: Trap, work: Callable[[], object]) -> None:
    sys.settrace(trap.enter)
    try:
        work()
    finally:
        sys.settrace(None)


def _fork(work: Callable[[], object]) -> bool:
    """Whether the child was killed. Raises RuntimeError when its work failed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"the child failed: {os.waitstatus_to_exitcode(status)}")
    return killed
