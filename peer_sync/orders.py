"""One exchange as the courier sees it, and how it is told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync.errors import NotFoundError, PeerSyncError, TransportError
from peer_sync.manifest import Facts

WITHOUT_PEER = "training goes on without a peer in this round"
MAX_TOLD = 5


@dataclass(frozen=True, eq=False)
class Order:
    """Offer this payload, collect from this peer.

    Attributes:
        payload: the weights to offer.
        facts: what the manifest says about them.
        peer: whom to ask for theirs.
    """

    payload: Path
    facts: Facts
    peer: str

    @property
    def place(self) -> str:
        """How a message names this exchange."""
        return f"peer {self.peer!r}, round {self.facts.round}"


class Failures:
    """The failures of one round: how many, and which were told."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[str] = set()

    def is_news(self, error: TransportError) -> bool:
        """Count a failure; a missing offer is not told before the round is over, nor are very many."""
        self.count += 1
        if isinstance(error, NotFoundError) or str(error) in self._told or len(self._told) >= MAX_TOLD:
            return False
        self._told.add(str(error))
        return True


def sentence(error: PeerSyncError) -> str:
    """Message and hint."""
    return f"{error} ({error.hint})" if error.hint else str(error)


def discard(payload: Path) -> None:
    """Remove weights that will not be offered."""
    with suppress(OSError):
        payload.unlink(missing_ok=True)
