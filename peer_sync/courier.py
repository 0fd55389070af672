"""The courier: exchanges in the background, so that training never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from peer_sync.collector import Collector
from peer_sync.errors import ConfigError, TransportError
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.orders import WITHOUT_PEER, Order, Request
from peer_sync.publisher import Publisher
from peer_sync.reports import GOES_ON, Reports
from peer_sync.routes import way_to, way_to_relay
from peer_sync.server.keeper import Keeper
from peer_sync.site import Site
from peer_sync.transport import Transport

CUT_SECONDS = 0.2
STALE_SECONDS = 300.0


class Courier:
    """Offers our weights and collects the peers', in threads of its own.

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
        self._deliveries: dict[str, Delivery] = {}
        self._collectors: dict[str, Collector] = {}
        self._least_round = 0
        self._server = Keeper(mailbox.site)
        self._reports = Reports(mailbox.ledger)
        relay = way_to_relay(mailbox.site)
        self._publisher = Publisher(mailbox, self._reports, relay, self._check_server, self._hurry)

    def start(self) -> None:
        """Start the server process (with ``listen`` in site.toml) and the threads.

        Raises:
            ConfigError: our key cannot be used, the port is busy, or the server cannot start otherwise.
        """
        self._publisher.start()
        if news := self._server.check():
            self._reports.say(news)

    def exchange(self, payload: Path, facts: Facts, peers: Sequence[str], least_round: int = 0) -> None:
        """Offer ``payload`` once, collect from each of ``peers`` on its own; returns at once.

        The offer is published at once. An exchange that still waits for a peer is
        replaced, for all its peers; a transfer under way is finished first, unless it is
        older than five minutes.

        Args:
            payload: our weights.
            facts: what the manifest says about them.
            peers: whom to ask; a slow one does not hold up the others.
            least_round: in step, the round to which a peer must have come: an earlier offer
                is asked for again until the next exchange. 0 takes what there is.
        """
        order = Order(Path(payload), facts, tuple(dict.fromkeys(peers)), least_round)
        if self._publisher.is_running:
            self._ask(order)
        else:
            self._reports.say(f"{order.place}: the courier is not running; {WITHOUT_PEER}")
        self._publisher.order(order)

    def delivery(self) -> Delivery | None:
        """The next delivery that was not handed out yet, in the order in which they came; returns at once.

        A newer one of the same peer has replaced the older. In step, one of an earlier
        round that came late is not handed out.
        """
        while (delivery := self._next_delivery()) is not None:
            if delivery.manifest.round >= self._least_round:
                return delivery
            self._drop(delivery)
        return None

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        return self._reports.take()

    def stop(self, timeout_seconds: float = 10) -> None:
        """End threads and server; transfers under way are cut off. The mailbox stays open."""
        deadline = time.monotonic() + timeout_seconds
        collectors = self._asked()
        workers = (*self._publisher.workers, *(collector.worker for collector in collectors))
        for worker in workers:
            worker.stop()
        while any(worker.is_alive for worker in workers) and time.monotonic() < deadline:
            self._publisher.cut()
            for collector in collectors:
                collector.cut()
            for worker in workers:
                worker.join(CUT_SECONDS / len(workers))
        self._server.stop(timeout_seconds)
        while (delivery := self._next_delivery()) is not None:
            self._drop(delivery)

    def _ask(self, order: Order) -> None:
        """Send each peer's collector on its way, and end what the last exchange has left to do."""
        with self._lock:
            self._least_round = order.least_round
            for peer, collector in self._collectors.items():
                if peer not in order.peers:
                    collector.worker.dismiss()
            for request in order.requests():
                if request.peer not in self._collectors:
                    self._collectors[request.peer] = self._new_collector(request.peer)
                    self._collectors[request.peer].worker.start()
                self._collectors[request.peer].worker.order(request)

    def _asked(self) -> list[Collector]:
        with self._lock:
            return list(self._collectors.values())

    def _new_collector(self, peer: str) -> Collector:
        return Collector(
            peer, lambda: self._way_to(self.mailbox.site, peer), self._collect, self._put_down, self._reports
        )

    def _hurry(self, order: Order) -> None:
        """See to it that every collector comes to this order in time."""
        while behind := [collector for collector in self._asked() if collector.worker.is_behind()]:
            if self._publisher.pause(CUT_SECONDS):
                return
            for collector in behind:
                if collector.worker.is_late(STALE_SECONDS):
                    collector.cut()

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

    def _collect(self, request: Request, transport: Transport, retries: int) -> Delivery:
        return self.mailbox.collect(
            request.peer,
            transport,
            self.plans_digest,
            self.schema_digest,
            self.payload_bytes,
            request.round,
            retries,
            least_round=request.least_round,
        )

    def _put_down(self, delivery: Delivery) -> None:
        """Leave a delivery for the trainer; an older one of the same peer is dropped."""
        with self._lock:
            older = self._deliveries.pop(delivery.peer, None)
            self._deliveries[delivery.peer] = delivery
        if older is not None:
            self._drop(older)

    def _next_delivery(self) -> Delivery | None:
        with self._lock:
            first = next(iter(self._deliveries), "")
            return self._deliveries.pop(first, None)

    def _drop(self, delivery: Delivery) -> None:
        with suppress(TransportError):
            self.mailbox.drop(delivery, "collected, but the training did not ask for it in time")
