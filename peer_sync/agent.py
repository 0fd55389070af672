"""Moves files for a training that has no network: ``nnunet-gml sync``, once or again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from peer_sync.errors import NotFoundError, PeerSyncError, TransportError, quoted
from peer_sync.mailbox import MOVES, Mailbox
from peer_sync.orders import sentence
from peer_sync.routes import way_to, way_to_relay
from peer_sync.site import Site
from peer_sync.transport import Transport
from peer_sync.wanted import Wanted, read_wanted

log = logging.getLogger(__name__)

CUT_SECONDS = 0.2


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
        self._way_to = way_to
        self._ways: list[Transport] = []
        self.mailbox = Mailbox(site, duties=(MOVES,))

    def run(self) -> list[Step]:
        """One pass: copy the outbox to the relay, collect from all peers at once what the training wants."""
        return [*self._guarded(self._publish), *self._guarded(self._collect)]

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

    def _publish(self) -> list[Step]:
        relay = way_to_relay(self.site)
        if relay is None:
            return []
        started = time.monotonic()
        try:
            published = self.mailbox.publish(relay)
        except TransportError as error:
            self._note_failure("publish", (None, None), str(error), started)
            raise TransportError(f"relay: {error}", error.hint) from error
        finally:
            relay.close()
        if published.files == 0:
            return [Step(f"relay: up to date with offer {published.sequence}")]
        put = f"put {published.files} files, {published.bytes} bytes"
        return [Step(f"relay: {put}, newest offer {published.sequence}")]

    def _collect(self) -> list[Step]:
        wanted = read_wanted(self.mailbox.wanted)
        if wanted is None:
            return [Step("the training has not ordered anything yet")]
        if len(wanted.peers) == 1:
            return self._collect_from(wanted.peers[0], wanted)
        with ThreadPoolExecutor(max_workers=max(1, len(wanted.peers))) as pool:
            begun = [
                pool.submit(self._guarded, partial(self._collect_from, peer, wanted)) for peer in wanted.peers
            ]
            try:
                return [step for steps in begun for step in steps.result()]
            finally:
                self._cut(begun)

    def _cut(self, begun: Sequence[Future[list[Step]]]) -> None:
        """When somebody ends the agent in the middle of a pass: end what is under way."""
        while wait(begun, timeout=0).not_done:
            for transport in list(self._ways):
                transport.close()
            wait(begun, timeout=CUT_SECONDS)

    def _collect_from(self, peer: str, wanted: Wanted) -> list[Step]:
        place = f"peer {peer!r}, round {wanted.round}"
        if self.mailbox.is_answered(wanted, peer):
            return [Step(f"{place}: was answered")]
        started = time.monotonic()
        transport = self._way_to(self.site, peer)
        self._ways.append(transport)
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
            )
        except TransportError as error:
            if not isinstance(error, NotFoundError):
                self._note_failure("collect", (peer, wanted.round), str(error), started)
            raise
        finally:
            self._ways.remove(transport)
            transport.close()
        found = f"{place}: collected offer {delivery.manifest.sequence}, {delivery.transferred_bytes} bytes"
        texts = filter(None, (f"{found} in {delivery.seconds} s", delivery.remark))
        return [Step(text) for text in texts]

    def _note_failure(
        self, event: str, asked: tuple[str | None, int | None], message: str, started: float
    ) -> None:
        peer, round_ = asked
        with suppress(OSError):
            self.mailbox.ledger.write(
                event=event,
                peer=peer,
                round=round_,
                bytes=0,
                seconds=round(time.monotonic() - started, 3),
                retries=0,
                verdict="failed",
                message=message,
            )
