"""The courier of a training without network: leaves orders for the agent, finds what it has brought."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from peer_sync.errors import PeerSyncError, TransportError
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.orders import WITHOUT_PEER, Order, sentence
from peer_sync.publisher import Publisher
from peer_sync.reports import Reports
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
        self._open: Order | None = None
        self._asked: tuple[Order, Wanted] | None = None
        self._heard = False

    def start(self) -> None:
        """Start the thread that writes offers and orders. Raises `ConfigError`: our key cannot be used."""
        self._publisher.start()

    def exchange(self, payload: Path, facts: Facts, peer: str) -> None:
        """Offer ``payload``, order what ``peer`` offers; returns at once."""
        if self._open is not None and not self._heard:
            self._reports.say(
                f"{self._open.place}: nothing has come; {WITHOUT_PEER} "
                "(does nnunet-gml sync run where there is a network? nnunet-gml status tells)"
            )
        self._open, self._heard = Order(Path(payload), facts, peer), False
        self._publisher.order(self._open)

    def delivery(self) -> Delivery | None:
        """What the agent has brought and nobody has judged; checked once more.

        It may be the late answer to an earlier order: the last one stays open for its own.
        """
        order = self._open
        if order is None:
            return None
        try:
            delivery = self.mailbox.waiting(
                order.peer, self.plans_digest, self.schema_digest, self.payload_bytes
            )
        except TransportError as error:
            if not self._heard:
                self._reports.say(f"{order.place}: {sentence(error)}; it is tried again")
            self._heard = True
            return None
        except PeerSyncError as error:
            self._open = None
            self._reports.say(f"{order.place}: {sentence(error)}; {WITHOUT_PEER}")
            return None
        if delivery is not None:
            self._heard = True
            self._close_if_answered(order)
        return delivery

    def messages(self) -> list[str]:
        """Sentences for the training log since the last call."""
        return self._reports.take()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """End the thread and withdraw the order. The mailbox stays open."""
        for worker in self._publisher.workers:
            worker.stop()
            worker.join(timeout_seconds)
        with suppress(OSError):
            self.mailbox.wanted.unlink(missing_ok=True)

    def _close_if_answered(self, order: Order) -> None:
        asked = self._asked
        if asked is not None and asked[0] is order and self.mailbox.is_answered(asked[1]):
            self._open = None

    def _want(self, order: Order) -> None:
        wanted = Wanted(
            order.peer, order.facts.round, self.plans_digest, self.schema_digest, self.payload_bytes
        )
        wanted.write(self.mailbox.wanted)
        self._asked = (order, wanted)
