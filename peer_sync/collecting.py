"""One attempt to collect a peer's newest offer: fetch, check, settle in the inbox."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync import names
from peer_sync.checks import (
    MANIFEST_MAX_BYTES,
    SIGNATURE_MAX_BYTES,
    Expectation,
    check_manifest,
    check_payload,
)
from peer_sync.errors import NotFoundError, TransportError
from peer_sync.manifest import Manifest
from peer_sync.storage import part_path, remove, sha256_of
from peer_sync.transport import Transport

SPARE_BYTES = 64 * 1024 * 1024
KEPT_DELIVERIES = 2
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Delivery:
    """A peer's offer that kept every rule this package knows; the trainer still has to judge the weights.

    Attributes:
        peer: whose weights.
        manifest: the signed facts.
        payload: the weights file in our inbox.
        round: our round in which it was collected.
        transferred_bytes: manifest, signature and weights together.
        seconds: how long collecting took.
        retries: failed attempts before it worked.
    """

    peer: str
    manifest: Manifest
    payload: Path
    round: int
    transferred_bytes: int = 0
    seconds: float = 0.0
    retries: int = 0

    def facts(self) -> dict[str, str | int | float | None]:
        """This delivery, for the ledger."""
        return {
            "event": "collect",
            "peer": self.peer,
            "round": self.round,
            "sequence": self.manifest.sequence,
            "bytes": self.transferred_bytes,
            "seconds": self.seconds,
            "retries": self.retries,
        }


class Attempt:
    """One attempt to collect from one peer; `staging` holds what came so far.

    Args:
        inbox: the site's inbox.
        peer: whom to ask.
        transport: the way there.
        round: our round.
        retries: failed attempts before this one.
    """

    def __init__(self, inbox: Path, peer: str, transport: Transport, round: int, retries: int) -> None:
        self.inbox = inbox
        self.peer = peer
        self.transport = transport
        self.round = round
        self.retries = retries
        self.staging = part_path(inbox)
        self.sequence: int | None = None
        self.transferred_bytes = 0
        self.started = time.monotonic()

    def run(self, expected: Expectation) -> Delivery:
        """Fetch and check the newest offer. Raises what `Mailbox.collect` raises, and OSError."""
        self.staging.mkdir()
        sequence = self.sequence = names.newest_whole(self.transport.names())
        if sequence == 0:
            raise NotFoundError("expected an offer, found none", hint="the peer has not offered yet")
        if sequence == expected.last_sequence:
            raise NotFoundError(
                f"expected an offer after {sequence}, found none", hint="the peer is not further"
            )
        data = self._fetch(names.manifest_name(sequence), MANIFEST_FILE, MANIFEST_MAX_BYTES)
        signature = self._fetch(names.signature_name(sequence), SIGNATURE_FILE, SIGNATURE_MAX_BYTES)
        manifest = check_manifest(data.read_bytes(), signature.read_bytes(), sequence, expected)
        self._check_space(manifest.payload_bytes)
        weights = self._fetch(manifest.payload, WEIGHTS_FILE, manifest.payload_bytes)
        check_payload(manifest, weights.stat().st_size, sha256_of(weights))
        payload = self._settle() / WEIGHTS_FILE
        return Delivery(
            self.peer, manifest, payload, self.round, self.transferred_bytes, self._seconds(), self.retries
        )

    def facts(self) -> dict[str, str | int | float | None]:
        """This attempt so far, for the ledger."""
        return {
            "event": "collect",
            "peer": self.peer,
            "round": self.round,
            "sequence": self.sequence,
            "bytes": self.transferred_bytes,
            "seconds": self._seconds(),
            "retries": self.retries,
        }

    def _fetch(self, name: str, file: str, max_bytes: int) -> Path:
        target = self.staging / file
        try:
            self.transport.get(name, target, max_bytes)
        finally:
            self.transferred_bytes += target.stat().st_size if target.exists() else 0
        return target

    def _check_space(self, payload_bytes: int) -> None:
        free = shutil.disk_usage(self.inbox).free
        if free < payload_bytes + SPARE_BYTES:
            raise TransportError(
                f"disk: expected {payload_bytes + SPARE_BYTES} free bytes for the weights, found {free}",
                hint=f"make room on the disk of {self.inbox}",
            )

    def _settle(self) -> Path:
        """Give the checked files their place in the inbox; the newest few of each peer stay."""
        home = self.inbox / self.peer
        home.mkdir(exist_ok=True)
        place = home / f"{self.sequence:010d}-{self.staging.name[-16:]}"
        older = sorted(home.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        self.staging.rename(place)
        for path in older[: 1 - KEPT_DELIVERIES]:
            remove(path)
        return place

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def clean(self) -> None:
        """Remove what was fetched and not kept."""
        with suppress(OSError):
            remove(self.staging)
