"""How long a call may take: small calls have a deadline, data has a lowest rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from peer_sync.address import Patience

LOOKS = 20


class Phase(Protocol):
    """A part of a call with a limit of its own."""

    def finding(self, now: float) -> str:
        """What is wrong at time ``now`` (seconds); empty while all is well."""


class Deadline:
    """An end is expected within ``seconds`` after ``now``."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._started = now

    def finding(self, now: float) -> str:
        """See `Phase`."""
        if now - self._started < self._seconds:
            return ""
        return f"expected an end within {self._seconds:g} s, found none"


class Pace:
    """At least ``min_bytes_per_second`` are expected over any stretch of ``rate_seconds``."""

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self._moved_bytes = 0
        self._looks = deque([(now, 0)])

    def moved(self, count: int) -> None:
        """So many bytes more have arrived, or were confirmed."""
        self._moved_bytes += count

    def finding(self, now: float) -> str:
        """See `Phase`; it knows the past as often as it was asked."""
        moved, expected = self._moved_bytes, self._patience.min_bytes_per_second
        self._looks.append((now, moved))
        while now - self._looks[1][0] >= self._patience.rate_seconds:
            self._looks.popleft()
        seconds = now - self._looks[0][0]
        rate = (moved - self._looks[0][1]) / seconds if seconds else 0.0
        if seconds < self._patience.rate_seconds or rate >= expected:
            return ""
        return f"expected at least {expected} bytes/s, found {rate:.0f} bytes/s over {seconds:.0f} s"


class Watchdog:
    """Watches one call in a thread of its own, and cuts it once when a limit is broken.

    Attributes:
        finding: why it was cut; empty if it was not.
    """

    def __init__(self, patience: Patience, cut: Callable[[], object]) -> None:
        self.finding = ""
        self._patience = patience
        self._cut = cut
        self._phase: Phase = self._small()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @contextmanager
    def data(self) -> Iterator[Callable[[int], None]]:
        """While a file's data moves; yields what is told of every piece. After it a new deadline begins."""
        pace = Pace(self._patience, time.monotonic())
        self._phase = pace
        yield pace.moved
        self._phase = self._small()

    def _small(self) -> Deadline:
        return Deadline(self._patience.deadline_seconds, time.monotonic())

    def _watch(self) -> None:
        pause = min(self._patience.deadline_seconds, self._patience.rate_seconds) / LOOKS
        while not self._ended.wait(pause):
            self.finding = self._phase.finding(time.monotonic())
            if self.finding:
                self._cut()
                return
