"""What the ledger tells about each peer and about ourselves. It only reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from peer_sync.entries import Entry, Problem, read_entries
from peer_sync.errors import ConfigError
from peer_sync.manifest import read_time
from peer_sync.memory import Memory
from peer_sync.site import Site


@dataclass
class PeerStatus:
    """All exchanges with one peer.

    Attributes:
        name: the peer.
        last_seen: when something last came from it; None when nothing ever did.
        last_verdict: what became of that: ``accepted``, ``refused``, or ``not used``.
        round: our round in the last exchange, whatever its end.
        sequence: number of the last offer that came.
        accepted, refused, failed: exchanges by their end.
        received_bytes: all that came, with refused offers and broken transfers.
        trust: in the last network of this peer that was met.
        problem: the last one; exchanges after it may have been good.
        offered: when the newest offer that was judged was made, by the peer's clock;
            when it was accepted, where that is not known.
    """

    name: str
    last_seen: datetime | None = None
    last_verdict: str = ""
    round: int | None = None
    sequence: int | None = None
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    received_bytes: int = 0
    trust: float | None = None
    problem: Problem | None = None
    offered: datetime | None = None

    def take(self, entry: Entry) -> None:
        """Add one line of the ledger about this peer."""
        if entry.event == "meet":
            self.trust = entry.trust
        if entry.event != "collect":
            return
        self.round = entry.round if entry.round is not None else self.round
        self.sequence = entry.sequence or self.sequence
        self.received_bytes += entry.bytes or 0
        self.problem = entry.problem or self.problem
        self.accepted += entry.verdict == "accepted"
        self.refused += entry.verdict == "refused"
        self.failed += entry.verdict == "failed"
        if entry.came:
            self.last_seen = entry.time
            self.last_verdict = "not used" if entry.verdict == "failed" else str(entry.verdict)
        if entry.verdict == "accepted":
            self.offered = entry.time


@dataclass
class OwnStatus:
    """All offers of this site.

    Attributes:
        offers: how many were published in the outbox.
        last_offer: when the last one was.
        sequence: its number.
        offered_bytes: of all of them.
        failed: offers that could not be written.
        last_publish: when the outbox was last copied to the relay; None when it never was.
        problem: the last one with offers or the relay.
    """

    offers: int = 0
    last_offer: datetime | None = None
    sequence: int | None = None
    offered_bytes: int = 0
    failed: int = 0
    last_publish: datetime | None = None
    problem: Problem | None = None

    def take(self, entry: Entry) -> None:
        """Add one line of the ledger about our own offers."""
        if entry.event not in ("offer", "publish"):
            return
        self.problem = entry.problem or self.problem
        if entry.event == "publish":
            self.last_publish = self.last_publish if entry.problem else entry.time
        elif entry.problem:
            self.failed += 1
        else:
            self.offers += 1
            self.offered_bytes += entry.bytes or 0
            self.last_offer, self.sequence = entry.time, entry.sequence


@dataclass
class Status:
    """Everything that one ledger says.

    Attributes:
        peers: one for each other site of the federation, by name.
        own: this site.
        lines: how many the ledger has.
        broken: lines among them that are not what a ledger holds, or were cut.
        former: lines about sites that are not in the federation, for each name.
    """

    peers: dict[str, PeerStatus]
    own: OwnStatus = field(default_factory=OwnStatus)
    lines: int = 0
    broken: int = 0
    former: Counter[str] = field(default_factory=Counter)

    @property
    def last_seen(self) -> datetime | None:
        """When something last came from anybody; None when nothing ever did."""
        return max((peer.last_seen for peer in self.peers.values() if peer.last_seen), default=None)

    def take(self, entry: Entry | None) -> None:
        """Add the next line of the ledger; None is a broken one."""
        self.lines += 1
        if entry is None:
            self.broken += 1
        elif entry.peer is None:
            self.own.take(entry)
        elif entry.peer in self.peers:
            self.peers[entry.peer].take(entry)
        else:
            self.former[entry.peer] += 1


def read_status(site: Site) -> Status:
    """Read the ledger of a site, also while it is written. Raises `ConfigError` when it cannot be read."""
    status = Status({name: PeerStatus(name) for name in site.federation.peers_of(site.name)})
    path = site.folder / "ledger.jsonl"
    try:
        for entry in read_entries(path):
            status.take(entry)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check path and rights") from error
    for peer in status.peers.values():
        peer.offered = _created(Memory(site.folder / "state"), peer.name) or peer.offered
    return status


def _created(memory: Memory, peer: str) -> datetime | None:
    """When the newest judged offer of a peer was made, if that is remembered."""
    try:
        return read_time(memory.judged(peer).created)
    except (ValueError, ConfigError):
        return None
