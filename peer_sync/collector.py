"""Asks one peer, in a thread of its own: no other peer of an exchange waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from peer_sync.errors import ConfigError, NotFoundError, PeerSyncError, RejectedError, TransportError
from peer_sync.inbox import Delivery
from peer_sync.orders import Failures, Request, sentence
from peer_sync.persistence import keep_trying
from peer_sync.reports import Reports
from peer_sync.transport import Transport
from peer_sync.worker import Worker

Collect = Callable[[Request, Transport, Failures], Delivery]
NEVER_ASKED = "not asked: an earlier transfer of this peer took too long"


class Collector:
    """Does one request after the other; a newer one replaces one that still waits or is tried again.

    Args:
        peer: whom to ask.
        way: finds the way to the peer.
        collect: one attempt, given the request, the way, and the attempts that have failed.
        put_down: takes what came.
        reports: what goes wrong is told here.
    """

    def __init__(
        self,
        peer: str,
        way: Callable[[], Transport],
        collect: Collect,
        put_down: Callable[[Delivery], None],
        reports: Reports,
    ) -> None:
        self.peer = peer
        self._way = way
        self._collect_once = collect
        self._put_down = put_down
        self._reports = reports
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self.worker = Worker(f"peer_sync collector {peer}", self._fetch)

    def ask(self, request: Request) -> None:
        """Do ``request`` as soon as possible, instead of one that still waits."""
        self._forget(self.worker.order(request))

    def dismiss(self) -> None:
        """Nobody wants anything of this peer now; a transfer under way is finished."""
        self._forget(self.worker.dismiss())

    def stop(self) -> None:
        """Take no more requests."""
        self._forget(self.worker.stop())

    def cut(self) -> None:
        """End a transfer under way."""
        with self._lock:
            transport = self._transport
        if transport is not None:
            transport.close()

    def _fetch(self, request: Request) -> None:
        self._reports.guarded(request, "collect", self._collect)

    def _collect(self, request: Request) -> None:
        """Try until it works, is refused, or the next exchange comes."""
        started, failures = time.monotonic(), Failures()
        try:
            transport = self._way()
            with self._lock:
                self._transport = transport
            try:
                self._put_down(self._attempts(request, transport, failures))
            finally:
                transport.close()
        except RejectedError as error:
            self._reports.say(f"{sentence(error)}; {request.ending}")
            self._reports.refused(request.peer, error.rule)
        except PeerSyncError as error:
            is_placed = isinstance(error, TransportError)
            message = str(error) if is_placed else f"{request.place}, rule setup: {error}"
            told = type(error)(message, error.hint)
            if not is_placed:
                failures.transferred_bytes += error.transferred_bytes
            self._give_up(request, told, failures, time.monotonic() - started)

    def _attempts(self, request: Request, transport: Transport, failures: Failures) -> Delivery:
        """Collect with growing pauses. Raises the last failure when the round is over, and every refusal."""

        def failed(error: TransportError) -> None:
            if failures.is_news(error):
                ending = request.ending if self.worker.is_behind() else request.until_then
                self._reports.say(f"{sentence(error)}; {ending}")
            transport.close()

        def collect() -> Delivery:
            return self._collect_once(request, transport, failures)

        return keep_trying(collect, failed, self.worker.pause, in_step=request.least_round > 0)

    def _forget(self, request: Request | None) -> None:
        """Note a request that was replaced before it began."""
        if request is None:
            return
        if not self.worker.is_stopping:
            self._reports.say(f"{request.place}: {NEVER_ASKED}; {request.ending}")
        with suppress(OSError):
            self._reports.failed(request, "collect", f"{request.place}: {NEVER_ASKED}")

    def _give_up(self, request: Request, error: PeerSyncError, failures: Failures, seconds: float) -> None:
        if isinstance(error, NotFoundError | ConfigError) and not self.worker.is_stopping:
            self._reports.say(f"{sentence(error)}; {request.ending}")
        with suppress(OSError):
            count, transferred = failures.count, failures.transferred_bytes
            self._reports.failed(request, "collect", str(error), count, seconds, transferred)
