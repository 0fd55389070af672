"""Moves files for a training that has no network: ``nnunet-gml sync``, once or again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from peer_sync.errors import (
    ConfigError,
    NotFoundError,
    PeerSyncError,
    RejectedError,
    TransportError,
    quoted,
)
from peer_sync.mailbox import MOVES, Delivery, Mailbox
from peer_sync.notes import Notes
from peer_sync.orders import sentence
from peer_sync.persistence import STALE_SECONDS
from peer_sync.renewal import Renewal, news
from peer_sync.routes import way_to, way_to_relay
from peer_sync.site import Site
from peer_sync.transport import Transport
from peer_sync.wanted import Wanted, read_wanted

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Step:
    """What one step of a pass came to.

    Attributes:
        text: for a person.
        succeeded: false when something should be looked at.
    """

    text: str
    succeeded: bool = True


class Agent:
    """Publishes and collects for one site; holds the duty of moving files until it is closed.

    Args:
        site: whose folders.
        way_to: how to reach a peer; tests put their own way here.

    Raises:
        ConfigError: another process moves this site's files, such as a training with its own courier.
    """

    def __init__(self, site: Site, way_to: Callable[[Site, str], Transport] = way_to) -> None:
        self.site = site
        self._renewal = Renewal(site)
        self._way_to = way_to
        self._ways: list[Transport] = []
        self.mailbox = Mailbox(site, duties=(MOVES,))
        self._notes = Notes(self.mailbox.ledger)

    def run(self) -> list[Step]:
        """One pass: copy the outbox to the relay, collect from all peers at once what the training wants.

        Before it, a federation.toml that was changed since the last pass is taken.
        """
        works = (self._renew, self._publish, self._collect)
        return [step for work in works for step in self._guarded(work)]

    def close(self) -> None:
        """Let another process move the files."""
        self.mailbox.close()

    @staticmethod
    def _guarded(work: Callable[[], list[Step]]) -> list[Step]:
        try:
            return work()
        except NotFoundError as error:
            return [Step(sentence(error))]
        except PeerSyncError as error:
            return [Step(sentence(error), succeeded=False)]
        # The last line of defence, as in the courier: the next pass is made in any case.
        except Exception as error:
            log.exception("unexpected error")
            found = f"unexpected error, {type(error).__name__}: {quoted(error)}"
            return [Step(found, succeeded=False)]

    def _renew(self) -> list[Step]:
        site = self._renewal.settled()
        if site is None:
            return []
        text = news(self.site.federation, site.federation)
        self.site = site
        self.mailbox.renew(site)
        return [Step(text)]

    def _publish(self) -> list[Step]:
        relay = way_to_relay(self.site)
        if relay is None:
            return []
        started = time.monotonic()
        try:
            published = self.mailbox.publish(relay)
        except TransportError as error:
            self._notes.failed("publish", error, started)
            raise TransportError(f"relay: {error}", error.hint) from error
        finally:
            relay.close()
        self._notes.forget(None)
        if published.files == 0:
            return [Step(f"relay: up to date with offer {published.sequence}")]
        put = f"put {published.files} files, {published.bytes} bytes"
        return [Step(f"relay: {put}, newest offer {published.sequence}")]

    def _collect(self) -> list[Step]:
        wanted = read_wanted(self.mailbox.wanted)
        if wanted is None:
            return [Step("the training has not ordered anything yet")]
        with self._watching(wanted) as is_over:
            if len(wanted.peers) == 1:
                return self._collect_from(wanted.peers[0], wanted)
            return self._collect_from_all(wanted, is_over)

    def _collect_from_all(self, wanted: Wanted, is_over: threading.Event) -> list[Step]:
        """At the same time: a slow one holds up nobody within the pass, nor whoever ends the agent in it."""
        with ThreadPoolExecutor(max_workers=max(1, len(wanted.peers))) as pool:
            try:
                begun = [
                    pool.submit(self._guarded, partial(self._collect_from, peer, wanted))
                    for peer in wanted.peers
                ]
                return [step for steps in begun for step in steps.result()]
            finally:
                is_over.set()

    @contextmanager
    def _watching(self, wanted: Wanted) -> Iterator[threading.Event]:
        """See to it meanwhile that old transfers do not hold up a newer order; yields what ends them all."""
        done, is_over = threading.Event(), threading.Event()
        watcher = threading.Thread(
            target=self._watch, args=(wanted, done, is_over), name="peer_sync agent watch", daemon=True
        )
        watcher.start()
        try:
            yield is_over
        finally:
            done.set()
            watcher.join()

    def _watch(self, wanted: Wanted, done: threading.Event, is_over: threading.Event) -> None:
        started = time.monotonic()
        while not done.wait(WATCH_SECONDS):
            is_old = time.monotonic() - started > STALE_SECONDS
            if is_over.is_set() or (is_old and self._is_replaced(wanted)):
                for transport in list(self._ways):
                    with suppress(PeerSyncError, OSError):
                        transport.close()

    def _is_replaced(self, wanted: Wanted) -> bool:
        """Whether the training has ordered something else; an order that is gone or damaged replaces none."""
        try:
            now = read_wanted(self.mailbox.wanted)
        except ConfigError:
            return False
        return now is not None and now.token != wanted.token

    def _collect_from(self, peer: str, wanted: Wanted) -> list[Step]:
        place = f"peer {peer!r}, round {wanted.round}"
        if self.mailbox.is_answered(wanted, peer):
            return [Step(f"{place}: was answered")]
        if peer not in self.site.federation.peers_of(self.site.name):
            return [Step(f"{place}: is not in federation.toml any more, and is not asked")]
        transport = self._way_to(self.site, peer)
        self._ways.append(transport)
        try:
            delivery = self._fetch(peer, wanted, transport)
        finally:
            self._ways.remove(transport)
            transport.close()
        found = f"{place}: collected offer {delivery.manifest.sequence}, {delivery.transferred_bytes} bytes"
        texts = filter(None, (f"{found} in {delivery.seconds} s", delivery.remark))
        return [Step(text) for text in texts]

    def _fetch(self, peer: str, wanted: Wanted, transport: Transport) -> Delivery:
        """One attempt; in vain, it is noted with what it fetched. Raises what `Mailbox.collect` raises."""
        started = time.monotonic()
        try:
            delivery = self.mailbox.collect(
                peer,
                transport,
                wanted.plans_digest,
                wanted.schema_digest,
                wanted.payload_bytes,
                wanted.round,
                token=wanted.token,
                least_round=wanted.least_round,
                already_bytes=self._notes.unwritten_bytes(peer),
            )
        except RejectedError:
            self._notes.forget(peer)
            raise
        except PeerSyncError as error:
            self._notes.count(peer, error)
            if isinstance(error, TransportError) and not isinstance(error, NotFoundError):
                self._notes.failed("collect", error, started, peer, wanted.round, wanted.token)
            raise
        self._notes.forget(peer)
        return delivery
