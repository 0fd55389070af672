"""Puts our offers out: into the outbox at once, and onto the relay as soon as that can be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from peer_sync import identity
from peer_sync.errors import PeerSyncError, TransportError
from peer_sync.mailbox import Mailbox
from peer_sync.orders import Failures, Order, discard, sentence
from peer_sync.persistence import keep_trying
from peer_sync.relay import Published
from peer_sync.reports import GOES_ON, Reports
from peer_sync.transport import Transport
from peer_sync.worker import Worker


class Publisher:
    """One thread for the outbox, one for the relay.

    Args:
        mailbox: this site's folders.
        reports: what goes wrong is told here.
        relay: the way to the relay; None without one.
        before: what is to be done before each offer.
        after: what is to be done after it; it should end soon when `pause` says so.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        reports: Reports,
        relay: Transport | None,
        before: Callable[[Order], None] = lambda order: None,
        after: Callable[[Order], None] = lambda order: None,
    ) -> None:
        self.mailbox = mailbox
        self.reports = reports
        self.relay = relay
        self._before = before
        self._after = after
        self._offers = Worker("peer_sync publisher", self._offer_guarded)
        self._copies = Worker("peer_sync relay", self._copy_guarded)
        self.workers = (self._offers, self._copies) if relay is not None else (self._offers,)

    def start(self) -> None:
        """Start the threads.

        Raises:
            ConfigError: our key cannot be used now, such as one that ssh-agent does not hold.
        """
        site = self.mailbox.site
        identity.load_site_key(site.private_key, site.member.public_key)
        for worker in self.workers:
            worker.start()

    def order(self, order: Order) -> None:
        """Offer as soon as possible; an offer that still waits for its turn is dropped."""
        replaced = self._offers.order(order)
        if replaced is not None and replaced.payload != order.payload:
            discard(replaced.payload)

    def pause(self, seconds: float) -> bool:
        """Wait; true as soon as there is a newer order or the end."""
        return self._offers.pause(seconds)

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._offers.is_alive and not self._offers.is_stopping

    @property
    def is_stopping(self) -> bool:
        """Whether the end is near."""
        return self._offers.is_stopping

    def cut(self) -> None:
        """End a copy under way."""
        if self.relay is not None:
            self.relay.close()

    def _offer_guarded(self, order: Order) -> None:
        self.reports.guarded(order, "offer", self._before)
        self.reports.guarded(order, "offer", self._offer)
        if self.relay is not None:
            self._copies.order(order)
        self.reports.guarded(order, "offer", self._after)

    def _offer(self, order: Order) -> None:
        try:
            self.mailbox.offer(order.payload, order.facts)
        except Exception as error:
            discard(order.payload)
            if not isinstance(error, PeerSyncError):
                raise
            place = f"our offer of round {order.facts.round}"
            self.reports.say(f"{place} was not published: {sentence(error)}; {GOES_ON}")

    def _copy_guarded(self, order: Order) -> None:
        self.reports.guarded(order, "publish", self._copy)

    def _copy(self, order: Order) -> None:
        """Copy to the relay until it works or a newer offer is there."""
        relay, failures, started = self.relay, Failures(), time.monotonic()
        if relay is None:
            return

        def failed(error: TransportError) -> None:
            if failures.is_news(error):
                self.reports.say(f"relay, round {order.facts.round}: {sentence(error)}; it is tried again")
            relay.close()

        def copy() -> Published:
            return self.mailbox.publish(relay, order.facts.round, failures.count)

        try:
            keep_trying(copy, failed, self._copies.pause)
        except PeerSyncError as error:
            if not isinstance(error, TransportError):
                self.reports.say(f"relay, round {order.facts.round}: {sentence(error)}; {GOES_ON}")
            with suppress(OSError):
                seconds = time.monotonic() - started
                self.reports.failed(order, "publish", str(error), failures.count, seconds)
        finally:
            relay.close()
