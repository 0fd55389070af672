"""Trying again: what passes by itself is tried until it works, with pauses that grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from peer_sync.errors import NotFoundError, TransportError

T = TypeVar("T")
STALE_SECONDS = 300.0
"""How old a transfer must be to be cut when the training wants something newer."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
LONGEST_WAIT_IN_STEP_SECONDS = 4.0
"""In step, the whole round waits for this peer: half a minute would be lost at every site in every round.

Only for a peer that answers and has nothing new: one question costs it a login and some kilobytes. One that
cannot be reached, or does not let us in, is asked as rarely as ever, so that nobody takes us for an attack.
"""


def keep_trying(
    work: Callable[[], T],
    failed: Callable[[TransportError], None],
    pause: Callable[[float], bool],
    in_step: bool = False,
) -> T:
    """Do ``work`` until it succeeds.

    Args:
        work: what may raise `TransportError`; any other error ends the trying.
        failed: is told of each failure; the place to drop a connection.
        pause: waits so many seconds; true when nobody wants the result any more.
        in_step: whether the training waits for this: what is not found is looked for more often.

    Raises:
        TransportError: the last one, when ``pause`` said so.
    """
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        try:
            return work()
        except TransportError as error:
            failed(error)
            is_awaited = in_step and isinstance(error, NotFoundError)
            longest_seconds = LONGEST_WAIT_IN_STEP_SECONDS if is_awaited else LONGEST_WAIT_SECONDS
            wait_seconds = min(wait_seconds, longest_seconds)
            if pause(wait_seconds):
                raise
        wait_seconds *= 2
