"""The courier: exchanges in the background, so that training never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from peer_sync.errors import ConfigError, NotFoundError, PeerSyncError, RejectedError, TransportError, quoted
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.orders import WITHOUT_PEER, Failures, Order, discard, sentence
from peer_sync.persistence import keep_trying
from peer_sync.routes import way_to
from peer_sync.server.process import ServerProcess
from peer_sync.site import Site
from peer_sync.transport import Transport
from peer_sync.worker import Worker

log = logging.getLogger(__name__)

MAX_MESSAGES = 1000
CUT_SECONDS = 0.2
STALE_SECONDS = 300.0


class Courier:
    """Offers our weights and collects the peer's, in two threads of its own.

    Args:
        mailbox: this site's folders.
        plans_digest: digest of our plans; an offer with another one is refused.
        schema_digest: digest of our tensors' names and shapes; likewise.
        payload_bytes: exact size of a valid weights file, for each type.
        way_to: how to reach a peer; tests put their own way here.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        plans_digest: str,
        schema_digest: str,
        payload_bytes: Mapping[str, int],
        way_to: Callable[[Site, str], Transport] = way_to,
    ) -> None:
        self.mailbox = mailbox
        self.plans_digest = plans_digest
        self.schema_digest = schema_digest
        self.payload_bytes = dict(payload_bytes)
        self._way_to = way_to
        self._lock = threading.Lock()
        self._delivery: Delivery | None = None
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)
        self._transport: Transport | None = None
        self._server: ServerProcess | None = None
        self._publisher = Worker("peer_sync publisher", self._publish)
        self._collector = Worker("peer_sync collector", self._fetch)

    def start(self) -> None:
        """Start the server process (with ``listen`` in site.toml) and the threads.

        Raises:
            ConfigError: the port is busy, or the server cannot start for another reason.
        """
        if self.mailbox.site.listen is not None:
            self._server = ServerProcess(self.mailbox.site)
        self._publisher.start()
        self._collector.start()

    def exchange(self, payload: Path, facts: Facts, peer: str) -> None:
        """Offer ``payload``, collect from ``peer``; returns at once.

        The offer is published at once. An exchange that still waits for its peer is
        replaced; a transfer under way is finished first, unless it is older than five minutes.
        """
        order = Order(Path(payload), facts, peer)
        self._collector.order(order)
        replaced = self._publisher.order(order)
        if not self._collector.is_alive:
            self._say(f"{order.place}: the courier is not running; {WITHOUT_PEER}")
        if replaced is not None and replaced.payload != order.payload:
            discard(replaced.payload)

    def delivery(self) -> Delivery | None:
        """The newest collected delivery that was not handed out yet; returns at once."""
        with self._lock:
            delivery, self._delivery = self._delivery, None
        return delivery

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        with self._lock:
            messages = list(self._messages)
            self._messages.clear()
        return messages

    def stop(self, timeout_seconds: float = 10) -> None:
        """End threads and server; a transfer under way is cut off. The mailbox stays open."""
        deadline = time.monotonic() + timeout_seconds
        workers = (self._publisher, self._collector)
        for worker in workers:
            worker.stop()
        while any(worker.is_alive for worker in workers) and time.monotonic() < deadline:
            self._cut()
            for worker in workers:
                worker.join(CUT_SECONDS)
        if self._server is not None:
            self._server.stop(timeout_seconds)
        self._put_down(None)

    def _publish(self, order: Order) -> None:
        """Offer, and see to it that the collector comes to this order in time."""
        self._guarded(order, "offer", self._check_server)
        self._guarded(order, "offer", self._offer)
        while self._collector.has_waiting() and not self._publisher.pause(CUT_SECONDS):
            if self._collector.is_late(STALE_SECONDS):
                self._cut()

    def _fetch(self, order: Order) -> None:
        self._guarded(order, "collect", self._collect)

    def _guarded(self, order: Order, event: str, work: Callable[[Order], None]) -> None:
        """The last line of defence: whatever is wrong with one order, the thread goes on."""
        try:
            work(order)
        except Exception as error:
            log.exception("%s: unexpected error", order.place)
            found = f"{type(error).__name__}: {quoted(error)}"
            ending = WITHOUT_PEER if event == "collect" else "training goes on"
            self._say(f"{order.place}, {event}: unexpected error, {found}; {ending}")
            with suppress(Exception):
                self._note_failure(order, event, found, 0, 0.0)

    def _cut(self) -> None:
        with self._lock:
            transport = self._transport
        if transport is not None:
            transport.close()

    def _check_server(self, order: Order) -> None:
        """Start the server again when its process has ended."""
        server = self._server
        if server is None or server.running:
            return
        self._say(f"{order.place}: the server of this site had ended; it is started again")
        try:
            server.stop(0)
            self._server = ServerProcess(self.mailbox.site)
            if self._publisher.is_stopping:
                self._server.stop()
        except (ConfigError, OSError) as error:
            self._say(f"{order.place}: no peer can read our offers: {error}; training goes on")

    def _offer(self, order: Order) -> None:
        try:
            self.mailbox.offer(order.payload, order.facts)
        except Exception as error:
            discard(order.payload)
            if not isinstance(error, PeerSyncError):
                raise
            place = f"our offer of round {order.facts.round}"
            self._say(f"{place} was not published: {sentence(error)}; training goes on")

    def _collect(self, order: Order) -> None:
        """Try until it works, is refused, or the next exchange comes."""
        started, failures = time.monotonic(), Failures()
        try:
            transport = self._way_to(self.mailbox.site, order.peer)
            with self._lock:
                self._transport = transport
            try:
                self._put_down(self._attempts(order, transport, failures))
            finally:
                transport.close()
        except RejectedError as error:
            self._say(f"{sentence(error)}; {WITHOUT_PEER}")
        except PeerSyncError as error:
            message = (
                str(error) if isinstance(error, TransportError) else f"{order.place}, rule setup: {error}"
            )
            self._give_up(order, type(error)(message, error.hint), failures.count, time.monotonic() - started)

    def _attempts(self, order: Order, transport: Transport, failures: Failures) -> Delivery:
        """Collect with growing pauses. Raises the last failure when the round is over, and every refusal."""

        def failed(error: TransportError) -> None:
            if failures.is_news(error):
                again = "" if self._collector.has_waiting() else "it is tried again, until then "
                self._say(f"{sentence(error)}; {again}{WITHOUT_PEER}")
            transport.close()

        def collect() -> Delivery:
            return self.mailbox.collect(
                order.peer,
                transport,
                self.plans_digest,
                self.schema_digest,
                self.payload_bytes,
                order.facts.round,
                failures.count,
            )

        return keep_trying(collect, failed, self._collector.pause)

    def _put_down(self, delivery: Delivery | None) -> None:
        """Leave a delivery for the trainer; one that was not fetched yet is dropped."""
        with self._lock:
            older, self._delivery = self._delivery, delivery
        if older is not None:
            with suppress(TransportError):
                self.mailbox.drop(older, "collected, but the training did not ask for it in time")

    def _give_up(self, order: Order, error: PeerSyncError, retries: int, seconds: float) -> None:
        if isinstance(error, NotFoundError | ConfigError) and not self._collector.is_stopping:
            self._say(f"{sentence(error)}; {WITHOUT_PEER}")
        with suppress(OSError):
            self._note_failure(order, "collect", str(error), retries, seconds)

    def _note_failure(self, order: Order, event: str, message: str, retries: int, seconds: float) -> None:
        self.mailbox.ledger.write(
            event=event,
            peer=order.peer if event == "collect" else None,
            round=order.facts.round,
            bytes=0,
            seconds=round(seconds, 3),
            retries=retries,
            verdict="failed",
            message=message,
        )

    def _say(self, message: str) -> None:
        with self._lock:
            self._messages.append(message)
