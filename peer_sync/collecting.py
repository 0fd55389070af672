"""One attempt to collect a peer's newest offer: fetch, check, settle in the inbox."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from peer_sync import encryption, names
from peer_sync.checks import (
    MANIFEST_MAX_BYTES,
    SIGNATURE_MAX_BYTES,
    Expectation,
    check_offer,
    check_opened,
    check_payload,
    check_signed,
)
from peer_sync.errors import NotFoundError, RejectedError
from peer_sync.figures import Figures
from peer_sync.inbox import MANIFEST_FILE, SIGNATURE_FILE, WEIGHTS_FILE, Delivery, Inbox
from peer_sync.manifest import Manifest, read_time
from peer_sync.site import Site
from peer_sync.storage import part_path, remove, sha256_of, size_of
from peer_sync.transport import Transport

SPARE_BYTES = 64 * 1024 * 1024
LOOKED_BACK = 2


class Attempt:
    """One attempt to collect from one peer; `staging` holds what came so far.

    Args:
        site: ours.
        inbox: where deliveries settle.
        figures: where it is kept what manifests say.
        peer: whom to ask.
        transport: the way there.
        round: our round.
        retries: failed attempts before this one.
        already_bytes: what they had fetched.
    """

    def __init__(
        self,
        site: Site,
        inbox: Inbox,
        figures: Figures,
        peer: str,
        transport: Transport,
        round: int,
        retries: int = 0,
        already_bytes: int = 0,
    ) -> None:
        self.site = site
        self.inbox = inbox
        self.figures = figures
        self.peer = peer
        self.transport = transport
        self.round = round
        self.retries = retries
        self.already_bytes = already_bytes
        self.staging = part_path(inbox.folder)
        self.sequence: int | None = None
        self.transferred_bytes = 0
        self.started = time.monotonic()

    def run(self, expected: Expectation) -> Delivery:
        """Fetch and check the newest offer; in step, the one of the wanted round.

        Raises what `Mailbox.collect` raises, and OSError.
        """
        self.staging.mkdir()
        sequences = names.whole(self.transport.names())
        if not sequences:
            raise NotFoundError("expected an offer, found none", hint="the peer has not offered yet")
        manifest = self._judge(sequences[-1], expected)
        if manifest.round < expected.least_round:
            wanted = f"expected an offer of round {expected.least_round} or later"
            found = f"{wanted}, found round {manifest.round}"
            raise self._nothing_new(found, manifest.created, expected)
        if expected.least_round > 0:
            manifest = self._nearest(manifest, sequences[-1 - LOOKED_BACK : -1], expected)
        if manifest.encryption != "none":
            encryption.check_can_read(self.site.private_key)
        begun = self.inbox.begun(self.peer, manifest.payload)
        with self._room(manifest, begun):
            self._open(self._fetch_payload(manifest, begun), manifest)
        remark = stale_remark(self.peer, manifest.created, expected, self.site.stale_days)
        facts = (self.round, self._all_bytes(), self._seconds(), self.retries, remark)
        delivery = Delivery(self.peer, manifest, self.staging / WEIGHTS_FILE, *facts)
        return self.inbox.settle(self.staging, delivery)

    def _judge(self, sequence: int, expected: Expectation) -> Manifest:
        """Fetch and check manifest and signature of one offer."""
        self.sequence = sequence
        data = self._fetch_small(names.manifest_name(sequence), MANIFEST_FILE, MANIFEST_MAX_BYTES)
        if expected.last.knows(sequence, data) and not expected.takes_again:
            found = f"expected an offer after {sequence}, found none"
            raise self._nothing_new(found, expected.last.created, expected)
        expected = expected.for_last(sequence, data)
        signature = self._fetch_small(names.signature_name(sequence), SIGNATURE_FILE, SIGNATURE_MAX_BYTES)
        manifest = check_signed(data, signature, expected)
        if manifest.site == self.peer and self.site.name in manifest.recipients:
            self.figures.note(manifest)
        check_offer(manifest, sequence, expected)
        return manifest

    def _nearest(self, newest: Manifest, older: Sequence[int], expected: Expectation) -> Manifest:
        """In step, the offer of the wanted round, where a peer that is ahead still shows it."""
        found = newest
        for sequence in reversed(older):
            if found.round == expected.least_round:
                break
            try:
                candidate = self._judge(sequence, expected)
            except (NotFoundError, RejectedError):
                break
            if candidate.round < expected.least_round:
                break
            found = candidate
        if self.sequence != found.sequence:
            return self._judge(found.sequence, expected)
        return found

    @property
    def place(self) -> str:
        """How a message names it."""
        return f"peer {self.peer!r}, round {self.round}"

    def facts(self) -> dict[str, str | int | float | None]:
        """This attempt so far, for the ledger."""
        return {
            "event": "collect",
            "peer": self.peer,
            "round": self.round,
            "sequence": self.sequence,
            "bytes": self._all_bytes(),
            "seconds": self._seconds(),
            "retries": self.retries,
        }

    def clean(self) -> None:
        """Remove what was fetched and not kept; a payload that has begun to come stays."""
        with suppress(OSError):
            remove(self.staging)

    def _nothing_new(self, found: str, created: str, expected: Expectation) -> NotFoundError:
        old = stale_remark(self.peer, created, expected, self.site.stale_days)
        if old:
            return NotFoundError(old, hint="ask there whether training and synchronisation still run")
        return NotFoundError(found, hint="the peer is not further")

    def _fetch_small(self, name: str, file: str, max_bytes: int) -> bytes:
        target = self.staging / file
        target.unlink(missing_ok=True)
        self._fetch(name, target, max_bytes)
        return target.read_bytes()

    def _fetch_payload(self, manifest: Manifest, begun: Path) -> Path:
        """The payload, continued where an earlier attempt stopped; checked, and moved to `staging`."""
        begun.parent.mkdir(exist_ok=True)
        continued = begun.exists()
        self._fetch(manifest.payload, begun, manifest.payload_bytes)
        if continued and sha256_of(begun) != manifest.sha256:
            remove(begun)
            self._fetch(manifest.payload, begun, manifest.payload_bytes)
        payload = begun.rename(self.staging / manifest.payload)
        check_payload(manifest, payload.stat().st_size, sha256_of(payload))
        return payload

    def _fetch(self, name: str, target: Path, max_bytes: int) -> None:
        before = size_of(target)
        try:
            self.transport.get(name, target, max_bytes)
        finally:
            now = size_of(target)
            self.transferred_bytes += now - before if now >= before else now

    def _open(self, payload: Path, manifest: Manifest) -> None:
        """Make of a checked payload the weights file."""
        weights = self.staging / WEIGHTS_FILE
        if manifest.encryption == "none":
            payload.rename(weights)
            return
        encryption.decrypt(payload, weights, self.site.private_key, manifest.weights_bytes)
        remove(payload)
        check_opened(manifest, weights.stat().st_size)

    def _room(self, manifest: Manifest, begun: Path) -> AbstractContextManager[None]:
        """Room for the payload, and once more where it has to be decrypted."""
        copies = 1 if manifest.encryption == "none" else 2
        places = (begun, self.staging / manifest.payload, self.staging / WEIGHTS_FILE)
        return self.inbox.room(copies * manifest.payload_bytes, SPARE_BYTES, places)

    def _all_bytes(self) -> int:
        return self.already_bytes + self.transferred_bytes

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)


def stale_remark(peer: str, created: str, expected: Expectation, stale_days: int) -> str:
    """A sentence about an offer that is older than ``stale_days``; empty for any other."""
    days = (expected.now - read_time(created)).days if created else 0
    if days < stale_days:
        return ""
    return f"stale: the newest offer of peer {peer!r} is {days} days old, expected less than {stale_days}"
