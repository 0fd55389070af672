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
from peer_sync.orders import WITHOUT_PEER, Failures, Order, Request
from peer_sync.persistence import STALE_SECONDS
from peer_sync.publisher import Publisher
from peer_sync.reports import GOES_ON, Reports
from peer_sync.routes import way_to, way_to_relay
from peer_sync.server.keeper import Keeper
from peer_sync.site import Site
from peer_sync.transport import Transport

CUT_SECONDS = 0.2


class Courier:
    """Offers our weights and collects the peers', in threads of its own.

    Args:
        mailbox: this site's folders.
        plans_digest: digest of our plans; an offer with another one is refused.
        schema_digest: digest of our tensors' names and shapes; likewise.
        payload_bytes: exact size of a valid weights file, for each type.
        way_to: how to reach a peer; tests put their own way here.
        server: what the courier before this one has left running.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        plans_digest: str,
        schema_digest: str,
        payload_bytes: Mapping[str, int],
        way_to: Callable[[Site, str], Transport] = way_to,
        server: Keeper | None = None,
    ) -> None:
        self.mailbox = mailbox
        self.plans_digest = plans_digest
        self.schema_digest = schema_digest
        self.payload_bytes = dict(payload_bytes)
        self._way_to = way_to
        self._lock = threading.Lock()
        self._deliveries: dict[str, Delivery] = {}
        self._collectors: dict[str, Collector] = {}
        self._order: Order | None = None
        self._handed_out: set[str] = set()
        self._server = server or Keeper(mailbox.site)
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
        round that came late is not handed out; out of step, not one that was collected for
        an earlier round of ours than another that lies ready, nor what was judged already.
        """
        while (delivery := self._next_delivery()) is not None:
            if self._is_welcome(delivery):
                self._note_handed_out(delivery)
                return delivery
            self._drop(delivery)
        return None

    def open_peers(self) -> set[str]:
        """Peers of the last exchange from whom something may still come; returns at once.

        Not those whose weights were handed out, nor those that were refused or given up.
        """
        asked = self._order.peers if self._order is not None else ()
        collectors = self._collectors
        # A collector puts its delivery down before it is done: looked at in this order, none is missed.
        awaited = {peer for peer in asked if collectors[peer].worker.is_wanted()} - self._handed_out
        with self._lock:
            ready = {peer for peer in asked if peer in self._deliveries}
        return awaited | ready

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        return self._reports.take()

    def refusals(self) -> list[tuple[str, str]]:
        """Peer and rule of every offer that was refused since the last call."""
        return self._reports.take_refusals()

    def stop(self, timeout_seconds: float = 10) -> None:
        """End threads and server; transfers under way are cut off. The mailbox stays open."""
        self._end_threads(timeout_seconds)
        self._server.stop(timeout_seconds)

    def renewed(self, site: Site) -> Courier:
        """The same with another federation file, not started; this one ends, but for its server."""
        self._end_threads()
        self.mailbox.renew(site)
        digests = (self.plans_digest, self.schema_digest)
        return Courier(self.mailbox, *digests, self.payload_bytes, self._way_to, self._server)

    def _end_threads(self, timeout_seconds: float = 10) -> None:
        """Transfers under way are cut off, and deliveries that wait are dropped."""
        deadline = time.monotonic() + timeout_seconds
        collectors = self._asked()
        workers = (*self._publisher.workers, *(collector.worker for collector in collectors))
        for part in (*self._publisher.workers, *collectors):
            part.stop()
        while any(worker.is_alive for worker in workers) and time.monotonic() < deadline:
            self._publisher.cut()
            for collector in collectors:
                collector.cut()
            for worker in workers:
                worker.join(CUT_SECONDS / len(workers))
        while (delivery := self._next_delivery()) is not None:
            self._drop(delivery)

    def _ask(self, order: Order) -> None:
        """Send each peer's collector on its way, and end what the last exchange has left to do."""
        for peer in order.peers:
            if peer not in self._collectors:
                collector = self._new_collector(peer)
                collector.worker.start()
                with self._lock:
                    self._collectors[peer] = collector
        self._order, self._handed_out = order, set()
        for collector in self._asked():
            if collector.peer not in order.peers:
                collector.dismiss()
        for request in order.requests():
            self._collectors[request.peer].ask(request)

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

    def _collect(self, request: Request, transport: Transport, failures: Failures) -> Delivery:
        return self.mailbox.collect(
            request.peer,
            transport,
            self.plans_digest,
            self.schema_digest,
            self.payload_bytes,
            request.round,
            failures.count,
            least_round=request.least_round,
            already_bytes=failures.transferred_bytes,
        )

    def _put_down(self, delivery: Delivery) -> None:
        """Leave a delivery for the trainer; an older one of the same peer is dropped."""
        with self._lock:
            older = self._deliveries.pop(delivery.peer, None)
            self._deliveries[delivery.peer] = delivery
        if older is not None:
            self._drop(older)

    def _note_handed_out(self, delivery: Delivery) -> None:
        """Out of step, a late answer to an earlier exchange leaves the last one open for its own."""
        order = self._order
        if order is not None and (order.least_round or delivery.round == order.round):
            self._handed_out.add(delivery.peer)

    def _is_welcome(self, delivery: Delivery) -> bool:
        """Whether the training may have this one; see `delivery`."""
        if self._order is not None and self._order.least_round:
            return delivery.manifest.round >= self._order.least_round
        with self._lock:
            newest = max((other.round for other in self._deliveries.values()), default=0)
        return delivery.round >= newest and not self._is_judged(delivery)

    def _is_judged(self, delivery: Delivery) -> bool:
        """Whether it was judged meanwhile, as an earlier delivery of the same offer or of a newer one."""
        try:
            return delivery.manifest.sequence <= self.mailbox.last_sequence(delivery.peer)
        except ConfigError:
            return False  # the memory is damaged: accepting it tells that to the training

    def _next_delivery(self) -> Delivery | None:
        with self._lock:
            first = next(iter(self._deliveries), "")
            return self._deliveries.pop(first, None)

    def _drop(self, delivery: Delivery) -> None:
        with suppress(TransportError):
            self.mailbox.drop(delivery, "collected, but the training did not ask for it in time")
