"""What the courier has to say: sentences for the training log, lines for the ledger."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from peer_sync.errors import quoted
from peer_sync.ledger import Ledger
from peer_sync.orders import WITHOUT_PEER, Order

log = logging.getLogger(__name__)

MAX_MESSAGES = 1000
GOES_ON = "training goes on"


class Reports:
    """Collects sentences until the training asks for them; several threads may report.

    Args:
        ledger: where failures are noted as well.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._lock = threading.Lock()
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)

    def say(self, message: str) -> None:
        """Keep a sentence for the training log."""
        with self._lock:
            self._messages.append(message)

    def take(self) -> list[str]:
        """All sentences since the last call."""
        with self._lock:
            messages = list(self._messages)
            self._messages.clear()
        return messages

    def failed(self, order: Order, event: str, message: str, retries: int = 0, seconds: float = 0.0) -> None:
        """Note in the ledger what did not work. Raises OSError."""
        self.ledger.write(
            event=event,
            peer=order.peer if event == "collect" else None,
            round=order.facts.round,
            bytes=0,
            seconds=round(seconds, 3),
            retries=retries,
            verdict="failed",
            message=message,
        )

    def guarded(self, order: Order, event: str, work: Callable[[Order], None]) -> None:
        """The last line of defence: whatever is wrong with one order, the thread goes on."""
        try:
            work(order)
        except Exception as error:
            log.exception("%s: unexpected error", order.place)
            found = f"{type(error).__name__}: {quoted(error)}"
            ending = WITHOUT_PEER if event == "collect" else GOES_ON
            self.say(f"{order.place}, {event}: unexpected error, {found}; {ending}")
            with suppress(Exception):
                self.failed(order, event, found)
