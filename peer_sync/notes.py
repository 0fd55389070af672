"""What the agent notes in the ledger: a failure once for an order, and every byte in exactly one line."""

from __future__ import annotations

import time
from contextlib import suppress

from peer_sync.errors import PeerSyncError
from peer_sync.ledger import Ledger


class Notes:
    """Remembers over many passes what is in the ledger already; each peer is one thread's at a time.

    Args:
        ledger: where failures are written.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._written: dict[str | None, tuple[str, str]] = {}
        self._bytes: dict[str | None, int] = {}

    def unwritten_bytes(self, peer: str) -> int:
        """What has crossed the network for a peer and is in no line yet."""
        return self._bytes.get(peer, 0)

    def count(self, peer: str, error: PeerSyncError) -> None:
        """Remember what a failed attempt had fetched, for the peer's next line."""
        self._bytes[peer] = self.unwritten_bytes(peer) + error.transferred_bytes

    def forget(self, peer: str | None) -> None:
        """It worked, or was refused: the bytes are in that line."""
        self._bytes.pop(peer, None)
        self._written.pop(peer, None)

    def failed(
        self,
        event: str,
        error: PeerSyncError,
        started: float,
        peer: str | None = None,
        round_: int | None = None,
        token: str = "",
    ) -> None:
        """Write a failure, unless the last line of this peer and order (or of the relay) says the same.

        Args:
            event: ``collect`` or ``publish``.
            error: what went wrong.
            started: when the attempt began, by `time.monotonic`.
            peer: whom it is about; None for the relay.
            round_: the training's round.
            token: names the order.
        """
        found = (token, str(error))
        if self._written.get(peer) == found:
            return
        self._written[peer] = found
        with suppress(OSError):
            self._ledger.write(
                event=event,
                peer=peer,
                round=round_,
                bytes=self._bytes.pop(peer, 0),
                seconds=round(time.monotonic() - started, 3),
                retries=0,
                verdict="failed",
                message=str(error),
            )
