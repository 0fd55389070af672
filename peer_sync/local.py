"""The courier of a training without network: leaves orders for the agent, finds what it has brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from peer_sync.errors import PeerSyncError, RejectedError, TransportError
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.orders import Order, Request, sentence
from peer_sync.publisher import Publisher
from peer_sync.reports import Reports
from peer_sync.site import Site
from peer_sync.wanted import Wanted

STOP_SECONDS = 10.0


class LocalCourier:
    """Like `peer_sync.courier.Courier` for the trainer, but it touches only local folders.

    Args:
        mailbox: this site's folders.
        plans_digest: digest of our plans.
        schema_digest: digest of our tensors' names and shapes.
        payload_bytes: exact size of a valid weights file, for each type.
    """

    def __init__(
        self, mailbox: Mailbox, plans_digest: str, schema_digest: str, payload_bytes: Mapping[str, int]
    ) -> None:
        self.mailbox = mailbox
        self.plans_digest = plans_digest
        self.schema_digest = schema_digest
        self.payload_bytes = dict(payload_bytes)
        self._reports = Reports(mailbox.ledger)
        self._publisher = Publisher(mailbox, self._reports, relay=None, after=self._want)
        self._order: Order | None = None
        self._wanted: tuple[Order, Wanted] | None = None
        self._open: list[str] = []
        self._silent: set[str] = set()

    def start(self) -> None:
        """Start the thread that writes offers and orders. Raises `ConfigError`: our key cannot be used."""
        self._publisher.start()

    def exchange(self, payload: Path, facts: Facts, peers: Sequence[str], least_round: int = 0) -> None:
        """Offer ``payload``, order what ``peers`` offer; see `peer_sync.courier.Courier.exchange`."""
        for request in self._requests():
            if request.peer in self._silent:
                self._reports.say(
                    f"{request.place}: nothing has come; {request.ending} "
                    "(does nnunet-gml sync run where there is a network? nnunet-gml status tells)"
                )
        self._order = Order(Path(payload), facts, tuple(dict.fromkeys(peers)), least_round)
        self._open, self._silent = list(self._order.peers), set(self._order.peers)
        self._publisher.order(self._order)

    def delivery(self) -> Delivery | None:
        """What the agent has brought and nobody has judged, one after the other; checked once more.

        Without ``least_round`` it may be the late answer to an earlier order: the last one
        stays open for its own.
        """
        for request in self._requests():
            if request.peer in self._open and (delivery := self._look(request)) is not None:
                return delivery
        return None

    def open_peers(self) -> set[str]:
        """Peers of the last exchange from whom something may still come.

        The agent has not answered for them, or its answer lies there and was not handed out.
        """
        return {request.peer for request in self._requests() if self._is_open(request)}

    def _requests(self) -> list[Request]:
        return self._order.requests() if self._order else []

    def _is_open(self, request: Request) -> bool:
        peer = request.peer
        if peer not in self._open:
            return False
        try:
            return not self._is_answered(peer) or self.mailbox.has_waiting(
                peer, self.plans_digest, self.schema_digest, self.payload_bytes, request.least_round
            )
        except PeerSyncError:
            return True  # the next look tells what is wrong

    def _look(self, request: Request) -> Delivery | None:
        peer = request.peer
        try:
            delivery = self.mailbox.waiting(
                peer, self.plans_digest, self.schema_digest, self.payload_bytes, request.least_round
            )
        except TransportError as error:
            if peer in self._silent:
                self._reports.say(f"{request.place}: {sentence(error)}; it is tried again")
            self._silent.discard(peer)
            return None
        except PeerSyncError as error:
            self._open.remove(peer)
            self._silent.discard(peer)
            self._reports.say(f"{request.place}: {sentence(error)}; {request.ending}")
            if isinstance(error, RejectedError):
                self._reports.refused(peer, error.rule)
            return None
        if delivery is not None:
            self._silent.discard(peer)
            if request.least_round or self._is_answered(peer):
                self._open.remove(peer)
        return delivery

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        return self._reports.take()

    def refusals(self) -> list[tuple[str, str]]:
        """Peer and rule of every offer that was refused since the last call."""
        return self._reports.take_refusals()

    def renewed(self, site: Site) -> LocalCourier:
        """The same with another federation file, not started; this one ends."""
        self.stop()
        self.mailbox.renew(site)
        return LocalCourier(self.mailbox, self.plans_digest, self.schema_digest, self.payload_bytes)

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """End the thread and withdraw the order. The mailbox stays open."""
        for worker in self._publisher.workers:
            worker.stop()
            worker.join(timeout_seconds)
        with suppress(OSError):
            self.mailbox.wanted.unlink(missing_ok=True)

    def _is_answered(self, peer: str) -> bool:
        """Whether the agent has brought this peer's answer to the last order, and not to an earlier one."""
        if self._wanted is None or self._wanted[0] is not self._order:
            return False
        return self.mailbox.is_answered(self._wanted[1], peer)

    def _want(self, order: Order) -> None:
        wanted = Wanted(
            order.peers,
            order.round,
            self.plans_digest,
            self.schema_digest,
            self.payload_bytes,
            order.least_round,
        )
        wanted.write(self.mailbox.wanted)
        self._wanted = (order, wanted)
