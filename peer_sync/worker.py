"""A thread that always does the newest order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Does one order after the other; one that still waits is replaced by a newer one.

    Args:
        name: of the thread.
        work: does an order; it must not raise.
    """

    def __init__(self, name: str, work: Callable[[T], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._waiting: T | None = None
        self._stopping = False
        self._dismissed = False
        self._busy = False
        self._started = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def order(self, order: T) -> T | None:
        """Do ``order`` as soon as possible; returns the one that it replaces."""
        with self._changed:
            replaced, self._waiting = self._waiting, order
            self._changed.notify_all()
        return replaced

    def dismiss(self) -> T | None:
        """Nobody wants anything now: the one at hand makes no more pauses; returns the one that waited."""
        with self._changed:
            forgotten, self._waiting, self._dismissed = self._waiting, None, True
            self._changed.notify_all()
        return forgotten

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def is_late(self, seconds: float) -> bool:
        """Whether an order that nobody wants any more has been worked on for longer than ``seconds``."""
        return self.is_behind() and time.monotonic() - self._started > seconds

    def is_wanted(self) -> bool:
        """Whether an order waits, or is worked on and was neither replaced nor dismissed."""
        with self._changed:
            has_more = self._waiting is not None or (self._busy and not self._dismissed)
            return has_more and not self._stopping

    def is_behind(self) -> bool:
        """Whether the order at hand was replaced or dismissed."""
        with self._changed:
            return self._busy and (self._dismissed or self._waiting is not None)

    def pause(self, seconds: float) -> bool:
        """Wait; true as soon as a newer order is there, the one at hand is dismissed, or the worker stops."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._stopping or self._dismissed or self._waiting is not None, seconds
            )

    def stop(self) -> T | None:
        """Take no more orders; the thread ends with the work at hand. Returns the one that waited."""
        with self._changed:
            forgotten, self._waiting, self._stopping = self._waiting, None, True
            self._changed.notify_all()
        return forgotten

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, at most so long."""
        if self.is_alive:
            self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while (order := self._next()) is not None:
            self._work(order)

    def _next(self) -> T | None:
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._stopping or self._waiting is not None)
            order, self._waiting = self._waiting, None
            self._busy, self._dismissed = not self._stopping, False
            self._started = time.monotonic()
            return None if self._stopping else order
