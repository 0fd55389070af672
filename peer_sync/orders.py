"""One exchange as the courier sees it: an order, a request to each of its peers, and how they are told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync.errors import NotFoundError, PeerSyncError, TransportError
from peer_sync.manifest import Facts

WITHOUT_PEER = "training goes on without a peer in this round"
WITHOUT_THIS_PEER = "training goes on without this peer in this round"
MAX_TOLD = 5


@dataclass(frozen=True, eq=False)
class Order:
    """Offer this payload, collect from these peers.

    Attributes:
        payload: the weights to offer.
        facts: what the manifest says about them.
        peers: whom to ask for theirs, each once.
        least_round: an offer of an earlier round is not wanted.
    """

    payload: Path
    facts: Facts
    peers: tuple[str, ...]
    least_round: int = 0

    @property
    def round(self) -> int:
        """Ours."""
        return self.facts.round

    @property
    def place(self) -> str:
        """How a message names this exchange."""
        return self.requests()[0].place if len(self.peers) == 1 else f"round {self.round}"

    def requests(self) -> list[Request]:
        """What each peer is asked for."""
        ending = WITHOUT_PEER if len(self.peers) == 1 else WITHOUT_THIS_PEER
        return [Request(peer, self.round, self.least_round, ending) for peer in self.peers]


@dataclass(frozen=True, eq=False)
class Request:
    """What one peer is asked for in an exchange.

    Attributes:
        peer: whom to ask.
        round: ours.
        least_round: see `Order`.
        ending: what a message says about the training when the peer gives nothing.
    """

    peer: str
    round: int
    least_round: int = 0
    ending: str = WITHOUT_PEER

    @property
    def until_then(self) -> str:
        """The same where it is tried again; in step the training waits."""
        return "it is tried again" if self.least_round else f"it is tried again, until then {self.ending}"

    @property
    def place(self) -> str:
        """How a message names it."""
        return f"peer {self.peer!r}, round {self.round}"


class Failures:
    """The failures of one round: how many, what they had fetched, and which were told."""

    def __init__(self) -> None:
        self.count = 0
        self.transferred_bytes = 0
        self._told: set[str] = set()

    def is_news(self, error: TransportError) -> bool:
        """Count a failure; a missing offer is not told before the round is over, nor are very many."""
        self.count += 1
        self.transferred_bytes += error.transferred_bytes
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
