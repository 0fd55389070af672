"""The courier: exchanges in the background, so that training never waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync.errors import ConfigError, NotFoundError, PeerSyncError, RejectedError, TransportError
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.serving import ServerProcess
from peer_sync.site import Site
from peer_sync.transport import FolderTransport, Transport

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
MAX_MESSAGES = 1000
CUT_SECONDS = 0.2
WITHOUT_PEER = "training goes on without a peer in this round"


def connect(site: Site, peer: str) -> Transport:
    """The way to a peer's outbox, as the federation file states it. Nothing is opened yet."""
    member = site.federation.member(peer)
    if member.address.startswith("folder:"):
        return FolderTransport(site.federation.path.parent / member.address.removeprefix("folder:"))
    from peer_sync.sftp import SftpTransport

    return SftpTransport(member.address, member.host_key, site.private_key, site.name)


@dataclass(frozen=True, eq=False)
class _Order:
    payload: Path
    facts: Facts
    peer: str

    @property
    def place(self) -> str:
        return f"peer {self.peer!r}, round {self.facts.round}"


class Courier:
    """Offers our weights and collects the peer's, in a thread of its own.

    Args:
        mailbox: this site's folders.
        plans_digest: digest of our plans; an offer with another one is refused.
        schema_digest: digest of our tensors' names and shapes; likewise.
        connect: how to reach a peer; tests put their own way here.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        plans_digest: str,
        schema_digest: str,
        connect: Callable[[Site, str], Transport] = connect,
    ) -> None:
        self.mailbox = mailbox
        self.plans_digest = plans_digest
        self.schema_digest = schema_digest
        self._connect = connect
        self._changed = threading.Condition()
        self._order: _Order | None = None
        self._waiting = False
        self._stopping = False
        self._delivery: Delivery | None = None
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)
        self._transport: Transport | None = None
        self._server: ServerProcess | None = None
        self._thread = threading.Thread(target=self._run, name="peer_sync courier", daemon=True)

    def start(self) -> None:
        """Start the server process (with ``listen`` in site.toml) and the thread.

        Raises:
            ConfigError: the port is busy, or the server cannot start for another reason.
        """
        if self.mailbox.site.listen is not None:
            self._server = ServerProcess(self.mailbox.site)
        self._thread.start()

    def exchange(self, payload: Path, facts: Facts, peer: str) -> None:
        """Offer ``payload``, collect from ``peer``; returns at once.

        An exchange that still waits for its peer is replaced; a transfer under way is
        finished first.
        """
        with self._changed:
            replaced, self._order = self._order if self._waiting else None, _Order(Path(payload), facts, peer)
            self._waiting = True
            self._changed.notify_all()
            if not self._thread.is_alive():
                place = f"peer {peer!r}, round {facts.round}"
                self._messages.append(f"{place}: the courier is not running; {WITHOUT_PEER}")
        if replaced is not None and replaced.payload != Path(payload):
            with suppress(OSError):
                replaced.payload.unlink(missing_ok=True)

    def delivery(self) -> Delivery | None:
        """The newest collected delivery that was not handed out yet; returns at once."""
        with self._changed:
            delivery, self._delivery = self._delivery, None
        return delivery

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        with self._changed:
            messages = list(self._messages)
            self._messages.clear()
        return messages

    def stop(self, timeout_seconds: float = 10) -> None:
        """End thread and server; a transfer under way is cut off. The mailbox stays open."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        while self._thread.is_alive() and time.monotonic() < deadline:
            with self._changed:
                transport = self._transport
            if transport is not None:
                transport.close()
            self._thread.join(CUT_SECONDS)
        if self._server is not None:
            self._server.stop(timeout_seconds)
        self._put_down(None)

    def _run(self) -> None:
        while (order := self._next()) is not None:
            self._offer(order)
            self._collect(order)

    def _next(self) -> _Order | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            self._waiting = False
            return None if self._stopping else self._order

    def _offer(self, order: _Order) -> None:
        try:
            self.mailbox.offer(order.payload, order.facts)
        except PeerSyncError as error:
            place = f"our offer of round {order.facts.round}"
            self._say(f"{place} was not published: {_sentence(error)}; training goes on")
            with suppress(OSError):
                order.payload.unlink(missing_ok=True)

    def _collect(self, order: _Order) -> None:
        """Try until it works, is refused, or the next exchange comes."""
        started, failures = time.monotonic(), _Failures()
        try:
            transport = self._connect(self.mailbox.site, order.peer)
            with self._changed:
                self._transport = transport
            try:
                self._put_down(self._attempts(order, transport, failures))
            finally:
                transport.close()
        except RejectedError as error:
            self._say(f"{_sentence(error)}; {WITHOUT_PEER}")
        except PeerSyncError as error:
            message = (
                str(error) if isinstance(error, TransportError) else f"{order.place}, rule setup: {error}"
            )
            self._give_up(order, type(error)(message, error.hint), failures.count, time.monotonic() - started)

    def _attempts(self, order: _Order, transport: Transport, failures: _Failures) -> Delivery:
        """Collect with growing pauses. Raises the last failure when the round is over, and every refusal."""
        wait_seconds = FIRST_WAIT_SECONDS
        while True:
            try:
                return self.mailbox.collect(
                    order.peer,
                    transport,
                    self.plans_digest,
                    self.schema_digest,
                    order.facts.round,
                    failures.count,
                )
            except TransportError as error:
                if failures.is_news(error):
                    self._say(f"{_sentence(error)}; it is tried again, until then {WITHOUT_PEER}")
                if self._is_over(order, wait_seconds):
                    raise
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)

    def _is_over(self, order: _Order, wait_seconds: float) -> bool:
        """Wait; true as soon as the courier stops or a newer exchange is there."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._stopping or self._order is not order, timeout=wait_seconds
            )

    def _put_down(self, delivery: Delivery | None) -> None:
        """Leave a delivery for the trainer; one that was not fetched yet is dropped."""
        with self._changed:
            older, self._delivery = self._delivery, delivery
        if older is not None:
            with suppress(TransportError):
                self.mailbox.drop(older, "collected, but the training did not ask for it in time")

    def _give_up(self, order: _Order, error: PeerSyncError, retries: int, seconds: float) -> None:
        if isinstance(error, NotFoundError | ConfigError) and not self._stopping:
            self._say(f"{_sentence(error)}; {WITHOUT_PEER}")
        with suppress(OSError):
            self.mailbox.ledger.write(
                event="collect",
                peer=order.peer,
                round=order.facts.round,
                bytes=0,
                seconds=round(seconds, 3),
                retries=retries,
                verdict="failed",
                message=str(error),
            )

    def _say(self, sentence: str) -> None:
        with self._changed:
            self._messages.append(sentence)


class _Failures:
    """The failures of one round: how many, and which were told."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[str] = set()

    def is_news(self, error: TransportError) -> bool:
        """Count a failure; a missing offer is not told before the round is over."""
        self.count += 1
        if isinstance(error, NotFoundError) or str(error) in self._told:
            return False
        self._told.add(str(error))
        return True


def _sentence(error: PeerSyncError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
