"""A site's folders: offer() puts weights out, collect() takes a peer's in, unchecked nothing is used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from peer_sync import names
from peer_sync.errors import ConfigError
from peer_sync.inbox import Delivery
from peer_sync.lock import Lock
from peer_sync.manifest import Facts, Manifest
from peer_sync.outbox import Outbox
from peer_sync.receiving import Receiver
from peer_sync.relay import Published, publish
from peer_sync.site import Site
from peer_sync.storage import remove_parts
from peer_sync.transport import Transport

__all__ = ["Delivery", "Mailbox"]


TRAINS, MOVES = "lock", "sync.lock"
"""What a process may do in a site's folder, by the lock it holds."""


class Mailbox(Receiver):
    """Outbox, inbox, quarantine, state and ledger of one site; each duty for one process at a time.

    Args:
        site: whose folders.
        duties: `TRAINS` offers and judges, `MOVES` collects and publishes; by default both.

    Raises:
        ConfigError: the folder cannot be used, or another process has one of the duties.
    """

    def __init__(self, site: Site, duties: Sequence[str] = (TRAINS, MOVES)) -> None:
        super().__init__(site)
        self.outbox = site.folder / "outbox"
        self.wanted = self.state / "wanted.json"
        self._locks: list[Lock] = []
        try:
            for folder in (self.outbox, self.inbox, self.quarantine.folder, self.state):
                folder.mkdir(parents=True, exist_ok=True)
            self._outbox = Outbox(site, self.outbox, self.state / "sequence.json")
            self._take_over(duties)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"cannot use the folder {site.folder}: {error.strerror}",
                hint="check path, rights and free space",
            ) from error
        except ConfigError:
            self.close()
            raise

    def _take_over(self, duties: Sequence[str]) -> None:
        """Take the locks, and remove what the last process left unfinished."""
        for duty in duties:
            self._locks.append(Lock(self.state / duty))
        if TRAINS in duties:
            remove_parts(self.outbox)
            remove_parts(self.state)
            self._outbox.remove_unfinished()
        if MOVES in duties:
            self._inbox.clean()

    def offer(self, payload: Path, facts: Facts) -> Manifest:
        """Move ``payload`` into the outbox, signed; the last three offers stay.

        Raises:
            TransportError: the folder cannot be written now.
            ConfigError: the payload is larger than the federation allows.
        """
        started = time.monotonic()
        with self._disk():
            manifest = self._outbox.offer(Path(payload), facts)
            self._figures.note(manifest)
            sequence = manifest.sequence
            beside = (names.manifest_name(sequence), names.signature_name(sequence))
            self.ledger.write(
                event="offer",
                round=facts.round,
                sequence=sequence,
                bytes=manifest.payload_bytes + sum((self.outbox / name).stat().st_size for name in beside),
                seconds=_since(started),
                retries=0,
                verdict="offered",
            )
        return manifest

    def meet(self, delivery: Delivery, trust: float) -> None:
        """Note how far the training trusts the weights, 0 to 1."""
        with self._disk():
            self.ledger.write(
                event="meet",
                peer=delivery.peer,
                round=delivery.round,
                sequence=delivery.manifest.sequence,
                trust=round(trust, 4),
            )

    def publish(self, relay: Transport, round: int | None = None, retries: int = 0) -> Published:
        """Copy the outbox to the relay. Raises `TransportError`, `ConfigError`."""
        started = time.monotonic()
        with self._disk():
            published = publish(self.outbox, relay)
            if published.files:
                self.ledger.write(
                    event="publish",
                    round=round,
                    sequence=published.sequence,
                    bytes=published.bytes,
                    seconds=_since(started),
                    retries=retries,
                    verdict="published",
                )
        return published

    def renew(self, site: Site) -> None:
        """Go on with another federation file; nobody else may be at work in this mailbox meanwhile."""
        self.site = self._outbox.site = site
        self.quarantine.max_bytes = site.federation.max_payload_bytes

    def close(self) -> None:
        """Let another process use the folder."""
        for lock in self._locks:
            lock.release()


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
