"""What comes from peers: collected, checked, judged by the training, and remembered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from peer_sync.checks import Expectation
from peer_sync.collecting import Attempt
from peer_sync.errors import ConfigError, NotFoundError, RejectedError, TransportError
from peer_sync.figures import Figures
from peer_sync.inbox import Delivery, Inbox
from peer_sync.ledger import Ledger
from peer_sync.memory import Memory
from peer_sync.quarantine import Quarantine
from peer_sync.site import Site
from peer_sync.storage import remove
from peer_sync.transport import Transport
from peer_sync.wanted import Wanted


class Receiver:
    """Inbox, quarantine, memory and ledger of one site; `peer_sync.mailbox.Mailbox` makes the folders.

    Args:
        site: whose folders.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.inbox = site.folder / "inbox"
        self.state = site.folder / "state"
        self.ledger = Ledger(site.folder / "ledger.jsonl")
        self.quarantine = Quarantine(site.folder / "quarantine", site.federation.max_payload_bytes)
        self._inbox = Inbox(self.inbox)
        self._figures = Figures(site.folder)
        self._memory = Memory(self.state)

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
        already_bytes: int = 0,
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
            already_bytes: what failed attempts before this one had fetched; only for the ledger.

        Raises:
            NotFoundError: there is nothing that was not judged before, or only of too early a round.
            TransportError: the way failed; later it may work.
            RejectedError: a rule is broken; the files are in quarantine.
            ConfigError: something of this site is wrong, such as its memory of the peer.

        The error's ``transferred_bytes`` are those of this attempt, unless it is a refusal, whose line is
        in the ledger.
        """
        expected = self._expectation(peer, plans_digest, schema_digest, payload_bytes, least_round)
        attempt = Attempt(
            self.site, self._inbox, self._figures, peer, transport, round, retries, already_bytes
        )
        try:
            with self._disk():
                delivery = attempt.run(expected)
                self._inbox.answer(peer, token)
                return delivery
        except RejectedError as error:
            raise self._refused(attempt, error, token) from error
        except TransportError as error:
            raise _failed(attempt, error) from error
        except ConfigError as error:
            error.transferred_bytes = attempt.transferred_bytes
            raise
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
        """Nobody will judge this delivery: remove it and say so in the ledger; it may come again.

        Also for one that was handed out and not accepted, such as one that came after the wait of its
        round. Raises `TransportError`.
        """
        with self._disk():
            remove(delivery.payload.parent)
            self.ledger.write(**{**delivery.facts(), "verdict": "failed", "message": message})

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
            if newest is None or not expected.awaits(newest.manifest):
                return None
            expected = expected.for_last(newest.manifest.sequence, newest.manifest.to_bytes())
            try:
                self._inbox.check(newest, expected)
            except RejectedError as error:
                self.quarantine.put(peer, newest.round, newest.payload.parent, error)
                self.ledger.write(**{**newest.facts(), **_refusal(error)})
                raise
        return newest

    def has_waiting(
        self,
        peer: str,
        plans_digest: str,
        schema_digest: str,
        payload_bytes: Mapping[str, int],
        least_round: int = 0,
    ) -> bool:
        """Whether `waiting` has something to look at; nothing is checked. Raises as that does."""
        expected = self._expectation(peer, plans_digest, schema_digest, payload_bytes, least_round)
        with self._disk():
            newest = self._inbox.newest(peer)
        return newest is not None and expected.awaits(newest.manifest)

    def is_answered(self, wanted: Wanted, peer: str) -> bool:
        """Whether this order was answered for one of its peers, by weights or by a refusal."""
        return self._inbox.is_answered(peer, wanted.token)

    def last_sequence(self, peer: str) -> int:
        """The newest offer of ``peer`` that was judged; 0 before the first."""
        return self._memory.judged(peer).sequence

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
            federation_version=federation.version,
            plans_digest=plans_digest,
            schema_digest=schema_digest,
            max_payload_bytes=federation.max_payload_bytes,
            payload_bytes=payload_bytes,
            last=self._memory.judged(peer),
            now=datetime.now(UTC),
            least_round=least_round,
        )

    def _refused(self, attempt: Attempt, error: RejectedError, token: str) -> RejectedError:
        """The refusal with its place, after what came was put into quarantine."""
        told = RejectedError(error.rule, f"{attempt.place}, rule {error.rule}: {error}", error.hint)
        with self._disk():
            self.quarantine.put(attempt.peer, attempt.round, attempt.staging, told)
            self.ledger.write(**attempt.facts(), **_refusal(told))
            self._inbox.answer(attempt.peer, token)
        return told

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """A full or broken disk here is a failure that may pass."""
        try:
            yield
        except OSError as error:
            raise TransportError(
                f"cannot write into {self.site.folder}: {error.strerror}", hint="check free space and rights"
            ) from error


def _failed(attempt: Attempt, error: TransportError) -> TransportError:
    rule = "nothing new" if isinstance(error, NotFoundError) else "connection"
    failed = type(error)(f"{attempt.place}, rule {rule}: {error}", error.hint)
    failed.transferred_bytes = attempt.transferred_bytes
    return failed


def _refusal(error: RejectedError) -> dict[str, str]:
    return {"verdict": "refused", "rule": error.rule, "message": str(error)}
