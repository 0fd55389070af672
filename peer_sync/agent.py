"""Moves files for a training that has no network: ``nnunet-gml sync``, once or again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from peer_sync.errors import NotFoundError, PeerSyncError, TransportError, quoted
from peer_sync.mailbox import MOVES, Mailbox
from peer_sync.orders import sentence
from peer_sync.routes import way_to, way_to_relay
from peer_sync.site import Site
from peer_sync.transport import Transport
from peer_sync.wanted import Wanted, read_wanted

log = logging.getLogger(__name__)


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
        self.mailbox = Mailbox(site, duties=(MOVES,))

    def run(self) -> list[Step]:
        """One pass: copy the outbox to the relay, collect what the training wants."""
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
            self._note_failure("publish", None, str(error), started)
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
        place = f"peer {wanted.peer!r}, round {wanted.round}"
        if self.mailbox.is_answered(wanted):
            return [Step(f"{place}: was answered")]
        started = time.monotonic()
        transport = self._way_to(self.site, wanted.peer)
        try:
            delivery = self.mailbox.collect(
                wanted.peer,
                transport,
                wanted.plans_digest,
                wanted.schema_digest,
                wanted.payload_bytes,
                wanted.round,
                token=wanted.token,
            )
        except TransportError as error:
            if not isinstance(error, NotFoundError):
                self._note_failure("collect", wanted, str(error), started)
            raise
        finally:
            transport.close()
        found = f"{place}: collected offer {delivery.manifest.sequence}, {delivery.transferred_bytes} bytes"
        texts = filter(None, (f"{found} in {delivery.seconds} s", delivery.remark))
        return [Step(text) for text in texts]

    def _note_failure(self, event: str, wanted: Wanted | None, message: str, started: float) -> None:
        with suppress(OSError):
            self.mailbox.ledger.write(
                event=event,
                peer=wanted.peer if wanted else None,
                round=wanted.round if wanted else None,
                bytes=0,
                seconds=round(time.monotonic() - started, 3),
                retries=0,
                verdict="failed",
                message=message,
            )
