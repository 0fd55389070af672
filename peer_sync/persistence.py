"""Trying again: what passes by itself is tried until it works, with pauses that grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from peer_sync.errors import TransportError

T = TypeVar("T")
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0


def keep_trying(
    work: Callable[[], T], failed: Callable[[TransportError], None], pause: Callable[[float], bool]
) -> T:
    """Do ``work`` until it succeeds.

    Args:
        work: what may raise `TransportError`; any other error ends the trying.
        failed: is told of each failure; the place to drop a connection.
        pause: waits so many seconds; true when nobody wants the result any more.

    Raises:
        TransportError: the last one, when ``pause`` said so.
    """
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        try:
            return work()
        except TransportError as error:
            failed(error)
            if pause(wait_seconds):
                raise
        wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
