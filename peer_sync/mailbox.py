"""A site's folders: offer() puts weights out, collect() takes a peer's in, unchecked nothing is used."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from peer_sync import names
from peer_sync.checks import Expectation
from peer_sync.collecting import Attempt
from peer_sync.errors import ConfigError, NotFoundError, RejectedError, TransportError
from peer_sync.inbox import Delivery, Inbox
from peer_sync.ledger import Ledger
from peer_sync.lock import Lock
from peer_sync.manifest import Facts, Manifest
from peer_sync.memory import Memory
from peer_sync.outbox import Outbox
from peer_sync.quarantine import Quarantine
from peer_sync.relay import Published, publish
from peer_sync.site import Site
from peer_sync.storage import remove, remove_parts
from peer_sync.transport import Transport
from peer_sync.wanted import Wanted

__all__ = ["Delivery", "Mailbox"]


TRAINS, MOVES = "lock", "sync.lock"
"""What a process may do in a site's folder, by the lock it holds."""


class Mailbox:
    """Outbox, inbox, quarantine, state and ledger of one site; each duty for one process at a time.

    Args:
        site: whose folders.
        duties: `TRAINS` offers and judges, `MOVES` collects and publishes; by default both.

    Raises:
        ConfigError: the folder cannot be used, or another process has one of the duties.
    """

    def __init__(self, site: Site, duties: Sequence[str] = (TRAINS, MOVES)) -> None:
        self.site = site
        self.outbox = site.folder / "outbox"
        self.state = site.folder / "state"
        self.wanted = self.state / "wanted.json"
        refused = site.folder / "quarantine"
        self.inbox = site.folder / "inbox"
        self._inbox = Inbox(self.inbox)
        self._memory = Memory(self.state)
        self._locks: list[Lock] = []
        try:
            for folder in (self.outbox, self.inbox, refused, self.state):
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
        self.quarantine = Quarantine(refused, site.federation.max_payload_bytes)
        self.ledger = Ledger(site.folder / "ledger.jsonl")

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

    def collect(
        self,
        peer: str,
        transport: Transport,
        plans_digest: str,
        schema_digest: str,
        payload_bytes: Mapping[str, int],
        round: int,
        retries: int = 0,
        token: str = "",
        least_round: int = 0,
    ) -> Delivery:
        """Fetch and check the newest offer of ``peer``.

        Args:
            peer: whom to ask.
            transport: the way there.
            plans_digest: digest of our plans.
            schema_digest: digest of our tensors' names and shapes.
            payload_bytes: exact size of a valid weights file, for each type.
            round: our round.
            retries: failed attempts before this one; only for the ledger.
            token: the order that this answers; only with an agent.
            least_round: an offer of an earlier round is not wanted yet. Above 0 the last
                offer that was accepted is taken once more, if its round is late enough.

        Raises:
            NotFoundError: there is nothing that was not judged before, or only of too early a round.
            TransportError: the way failed; later it may work.
            RejectedError: a rule is broken; the files are in quarantine.
        """
        expected = self._expectation(peer, plans_digest, schema_digest, payload_bytes, least_round)
        attempt = Attempt(self.site, self._inbox, peer, transport, round, retries)
        place = f"peer {peer!r}, round {round}, rule"
        try:
            with self._disk():
                delivery = attempt.run(expected)
                self._inbox.answer(peer, token)
                return delivery
        except RejectedError as error:
            told = RejectedError(error.rule, f"{place} {error.rule}: {error}", error.hint)
            self._quarantine(attempt, told)
            with self._disk():
                self._inbox.answer(peer, token)
            raise told from error
        except TransportError as error:
            rule = "nothing new" if isinstance(error, NotFoundError) else "connection"
            raise type(error)(f"{place} {rule}: {error}", error.hint) from error
        finally:
            attempt.clean()

    def accept(self, delivery: Delivery) -> None:
        """The weights are good: nothing as old as this is ever taken from this peer again."""
        with self._disk():
            self._memory.remember(delivery.peer, delivery.manifest, "accepted")
            self.ledger.write(**delivery.facts(), verdict="accepted")

    def refuse(self, delivery: Delivery, error: RejectedError) -> None:
        """The weights are bad: move them to quarantine and do not take them again."""
        with self._disk():
            self._memory.remember(delivery.peer, delivery.manifest, "refused")
            self.quarantine.put(delivery.peer, delivery.round, delivery.payload.parent, error)
            self.ledger.write(**{**delivery.facts(), **_refusal(error)})

    def drop(self, delivery: Delivery, message: str) -> None:
        """Nobody will judge this delivery: remove it and say so in the ledger; it may come again."""
        with self._disk():
            remove(delivery.payload.parent)
            self.ledger.write(**{**delivery.facts(), "verdict": "failed", "message": message})

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

    def waiting(
        self,
        peer: str,
        plans_digest: str,
        schema_digest: str,
        payload_bytes: Mapping[str, int],
        least_round: int = 0,
    ) -> Delivery | None:
        """What the agent has brought from ``peer`` and nobody has judged; manifest and signature are checked.

        With ``least_round`` as in `collect`: what was accepted before is found again.

        Raises:
            RejectedError: a rule is broken, though the agent has let it through.
            TransportError: it cannot be read now; the agent may just have removed it.
            ConfigError: see `collect`.
        """
        expected = self._expectation(peer, plans_digest, schema_digest, payload_bytes, least_round)
        with self._disk():
            newest = self._inbox.newest(peer)
            if newest is None or newest.manifest.round < least_round:
                return None
            if expected.takes_again and expected.last.knows(
                newest.manifest.sequence, newest.manifest.to_bytes()
            ):
                expected = expected.once_more()
            if newest.manifest.sequence <= expected.last.sequence:
                return None
            try:
                self._inbox.check(newest, expected)
            except RejectedError as error:
                self.quarantine.put(peer, newest.round, newest.payload.parent, error)
                self.ledger.write(**{**newest.facts(), **_refusal(error)})
                raise
        return newest

    def is_answered(self, wanted: Wanted, peer: str) -> bool:
        """Whether this order was answered for one of its peers, by weights or by a refusal."""
        return self._inbox.is_answered(peer, wanted.token)

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

    def last_sequence(self, peer: str) -> int:
        """The newest offer of ``peer`` that was judged; 0 before the first."""
        return self._memory.judged(peer).sequence

    def close(self) -> None:
        """Let another process use the folder."""
        for lock in self._locks:
            lock.release()

    def _expectation(
        self,
        peer: str,
        plans_digest: str,
        schema_digest: str,
        payload_bytes: Mapping[str, int],
        least_round: int,
    ) -> Expectation:
        federation = self.site.federation
        if peer == self.site.name:
            raise ConfigError(f"site {peer!r} cannot collect from itself", hint="name one of the other sites")
        return Expectation(
            site=self.site.name,
            peer=peer,
            public_key=federation.member(peer).public_key,
            federation=federation.digest,
            plans_digest=plans_digest,
            schema_digest=schema_digest,
            max_payload_bytes=federation.max_payload_bytes,
            payload_bytes=payload_bytes,
            last=self._memory.judged(peer),
            now=datetime.now(UTC),
            least_round=least_round,
        )

    def _quarantine(self, attempt: Attempt, error: RejectedError) -> None:
        with self._disk():
            self.quarantine.put(attempt.peer, attempt.round, attempt.staging, error)
            self.ledger.write(**attempt.facts(), **_refusal(error))

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """A full or broken disk here is a failure that may pass."""
        try:
            yield
        except OSError as error:
            raise TransportError(
                f"cannot write into {self.site.folder}: {error.strerror}", hint="check free space and rights"
            ) from error


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _refusal(error: RejectedError) -> dict[str, str]:
    return {"verdict": "refused", "rule": error.rule, "message": str(error)}
