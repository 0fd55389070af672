"""What the courier has to say: sentences for the training log, lines for the ledger."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from peer_sync.errors import quoted
from peer_sync.ledger import Ledger
from peer_sync.orders import Order, Request

log = logging.getLogger(__name__)

MAX_MESSAGES = 1000
GOES_ON = "training goes on"
T = TypeVar("T", Order, Request)
K = TypeVar("K")


class Reports:
    """Collects sentences until the training asks for them; several threads may report.

    Args:
        ledger: where failures are noted as well.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._lock = threading.Lock()
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)
        self._refusals: deque[tuple[str, str]] = deque(maxlen=MAX_MESSAGES)

    def say(self, message: str) -> None:
        """Keep a sentence for the training log."""
        with self._lock:
            self._messages.append(message)

    def take(self) -> list[str]:
        """All sentences since the last call."""
        return self._taken(self._messages)

    def refused(self, peer: str, rule: str) -> None:
        """Keep which peer's offer was refused, and by which rule."""
        with self._lock:
            self._refusals.append((peer, rule))

    def take_refusals(self) -> list[tuple[str, str]]:
        """Peer and rule of all refusals since the last call."""
        return self._taken(self._refusals)

    def _taken(self, kept: deque[K]) -> list[K]:
        with self._lock:
            taken = list(kept)
            kept.clear()
        return taken

    def failed(
        self,
        task: Order | Request,
        event: str,
        message: str,
        retries: int = 0,
        seconds: float = 0.0,
        transferred_bytes: int = 0,
    ) -> None:
        """Note in the ledger what did not work. Raises OSError."""
        self.ledger.write(
            event=event,
            peer=task.peer if isinstance(task, Request) else None,
            round=task.round,
            bytes=transferred_bytes,
            seconds=round(seconds, 3),
            retries=retries,
            verdict="failed",
            message=message,
        )

    def guarded(self, task: T, event: str, work: Callable[[T], None]) -> None:
        """The last line of defence: whatever is wrong with one order or request, the thread goes on."""
        try:
            work(task)
        except Exception as error:
            log.exception("%s: unexpected error", task.place)
            found = f"{type(error).__name__}: {quoted(error)}"
            ending = task.ending if isinstance(task, Request) else GOES_ON
            self.say(f"{task.place}, {event}: unexpected error, {found}; {ending}")
            with suppress(Exception):
                self.failed(task, event, found)
