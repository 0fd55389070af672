"""The courier: exchanges in the background, so that training never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from peer_sync.errors import ConfigError, NotFoundError, PeerSyncError, RejectedError, TransportError
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.orders import WITHOUT_PEER, Failures, Order, sentence
from peer_sync.persistence import keep_trying
from peer_sync.publisher import Publisher
from peer_sync.reports import GOES_ON, Reports
from peer_sync.routes import way_to, way_to_relay
from peer_sync.server.keeper import Keeper
from peer_sync.site import Site
from peer_sync.transport import Transport
from peer_sync.worker import Worker

CUT_SECONDS = 0.2
STALE_SECONDS = 300.0


class Courier:
    """Offers our weights and collects the peer's, in threads of its own.

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
        self._transport: Transport | None = None
        self._server = Keeper(mailbox.site)
        self._reports = Reports(mailbox.ledger)
        relay = way_to_relay(mailbox.site)
        self._publisher = Publisher(mailbox, self._reports, relay, self._check_server, self._hurry)
        self._collector = Worker("peer_sync collector", self._fetch)

    def start(self) -> None:
        """Start the server process (with ``listen`` in site.toml) and the threads.

        Raises:
            ConfigError: our key cannot be used, the port is busy, or the server cannot start otherwise.
        """
        self._publisher.start()
        if news := self._server.check():
            self._reports.say(news)
        self._collector.start()

    def exchange(self, payload: Path, facts: Facts, peer: str) -> None:
        """Offer ``payload``, collect from ``peer``; returns at once.

        The offer is published at once. An exchange that still waits for its peer is
        replaced; a transfer under way is finished first, unless it is older than five minutes.
        """
        order = Order(Path(payload), facts, peer)
        self._collector.order(order)
        self._publisher.order(order)
        if not self._collector.is_alive:
            self._reports.say(f"{order.place}: the courier is not running; {WITHOUT_PEER}")

    def delivery(self) -> Delivery | None:
        """The newest collected delivery that was not handed out yet; returns at once."""
        with self._lock:
            delivery, self._delivery = self._delivery, None
        return delivery

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        return self._reports.take()

    def stop(self, timeout_seconds: float = 10) -> None:
        """End threads and server; a transfer under way is cut off. The mailbox stays open."""
        deadline = time.monotonic() + timeout_seconds
        workers = (*self._publisher.workers, self._collector)
        for worker in workers:
            worker.stop()
        while any(worker.is_alive for worker in workers) and time.monotonic() < deadline:
            self._cut()
            self._publisher.cut()
            for worker in workers:
                worker.join(CUT_SECONDS)
        self._server.stop(timeout_seconds)
        self._put_down(None)

    def _hurry(self, order: Order) -> None:
        """See to it that the collector comes to this order in time."""
        while self._collector.has_waiting() and not self._publisher.pause(CUT_SECONDS):
            if self._collector.is_late(STALE_SECONDS):
                self._cut()

    def _fetch(self, order: Order) -> None:
        self._reports.guarded(order, "collect", self._collect)

    def _cut(self) -> None:
        with self._lock:
            transport = self._transport
        if transport is not None:
            transport.close()

    def _check_server(self, order: Order) -> None:
        """See to it that somebody serves the outbox."""
        try:
            news = self._server.check()
            if self._publisher.is_stopping:
                self._server.stop()
        except (ConfigError, OSError) as error:
            news = f"no peer can read our offers: {error}; {GOES_ON}"
        if news:
            self._reports.say(f"{order.place}: {news}")

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
            self._reports.say(f"{sentence(error)}; {WITHOUT_PEER}")
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
                self._reports.say(f"{sentence(error)}; {again}{WITHOUT_PEER}")
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
            self._reports.say(f"{sentence(error)}; {WITHOUT_PEER}")
        with suppress(OSError):
            self._reports.failed(order, "collect", str(error), retries, seconds)
