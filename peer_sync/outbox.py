"""What this site offers: three immutable files per offer, the manifest last."""

from __future__ import annotations

import logging
import math
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from peer_sync import encryption, identity, names
from peer_sync.errors import ConfigError, RejectedError, TransportError
from peer_sync.manifest import PROTOCOL, Facts, Manifest, parse, write_time
from peer_sync.site import Site
from peer_sync.storage import (
    number_in,
    part_path,
    read_state,
    remove,
    sha256_of,
    sync_file,
    sync_folder,
    write_durably,
    write_state,
)

log = logging.getLogger(__name__)

KEPT_OFFERS = 3
DICE_DIGITS = 4


class Outbox:
    """Publishes offers; only the site's own mailbox uses it.

    Args:
        site: whose outbox.
        folder: where the offers are.
        state: file that holds the last sequence number.
    """

    def __init__(self, site: Site, folder: Path, state: Path) -> None:
        self.site = site
        self.folder = folder
        self.state = state

    def offer(self, payload: Path, facts: Facts) -> Manifest:
        """Move ``payload`` into the outbox and publish it. Raises `TransportError`, `ConfigError`."""
        self._check_payload(payload)
        part, manifest = part_path(self.folder), None
        try:
            weights_bytes = payload.stat().st_size
            self._take(payload, part)
            manifest = self._manifest(self._next_sequence(), part, weights_bytes, facts)
            self._publish(part, manifest)
        except BaseException as error:
            self._withdraw(part, manifest)
            if not isinstance(error, OSError):
                raise
            raise TransportError(
                f"cannot write the offer into {self.folder}: {error.strerror}",
                hint="check free space and rights; the next round offers again",
            ) from error
        try:
            self._remove_all_but(self._whole()[-KEPT_OFFERS:])
        except OSError as error:
            log.warning("cannot remove old offers from %s: %s", self.folder, error.strerror)
        return manifest

    def remove_unfinished(self) -> None:
        """Remove offers that are not whole, and old ones that a killed process did not come to."""
        self._remove_all_but(self._whole()[-KEPT_OFFERS:])

    def _check_payload(self, payload: Path) -> None:
        try:
            size = payload.stat().st_size
        except OSError as error:
            raise TransportError(f"cannot read the weights to offer, {payload}: {error.strerror}") from error
        limit = self.site.federation.max_payload_bytes
        if not 0 < size <= limit:
            raise ConfigError(
                f"the weights to offer have {size} bytes, expected 1 to {limit}",
                hint="max_payload_bytes in federation.toml is the limit, the same at every site",
            )

    def _take(self, payload: Path, part: Path) -> None:
        """Move ``payload`` to ``part``; with ``encrypt`` its plain bytes never enter the outbox."""
        if self.site.encrypt:
            peers = self.site.federation.peers_of(self.site.name)
            lines = [self.site.federation.member(peer).public_key for peer in peers]
            encryption.encrypt(payload, part, lines)
            remove(payload)
        else:
            shutil.move(payload, part)
        sync_file(part)

    def _withdraw(self, part: Path, manifest: Manifest | None) -> None:
        """Leave nothing of an offer that failed; the manifest goes first."""
        with suppress(OSError):
            if manifest is not None:
                (self.folder / names.manifest_name(manifest.sequence)).unlink(missing_ok=True)
                (self.folder / names.signature_name(manifest.sequence)).unlink(missing_ok=True)
                (self.folder / manifest.payload).unlink(missing_ok=True)
            part.unlink(missing_ok=True)

    def _next_sequence(self) -> int:
        """One more than ever used; durable before anything carries it."""
        listed = (names.sequence_of(path.name) for path in self.folder.iterdir())
        sequence = max(number_in(read_state(self.state), "sequence", self.state), *listed, 0) + 1
        write_state(self.state, {"sequence": sequence})
        return sequence

    def _manifest(self, sequence: int, payload: Path, weights_bytes: int, facts: Facts) -> Manifest:
        site, now, digest = self.site, datetime.now(UTC), sha256_of(payload)
        format = "age" if site.encrypt else "none"
        dice = None
        if site.share_dice and facts.dice is not None:
            known = {name: float(score) for name, score in facts.dice.items() if math.isfinite(score)}
            dice = {str(name): round(score, DICE_DIGITS) for name, score in known.items()}
        return Manifest(
            protocol=PROTOCOL,
            federation=site.federation.digest,
            federation_version=site.federation.version,
            site=site.name,
            sequence=sequence,
            created=write_time(now),
            expires=write_time(now + timedelta(days=site.offer_days)),
            round=int(facts.round),
            epoch=int(facts.epoch),
            plans_digest=facts.plans_digest,
            schema_digest=facts.schema_digest,
            labelled=tuple(facts.labelled),
            cases=int(facts.cases) if site.share_cases and facts.cases is not None else None,
            dice=dice,
            payload=names.payload_name(sequence, digest, format),
            payload_bytes=payload.stat().st_size,
            sha256=digest,
            dtype=facts.dtype,
            encryption=format,
            weights_bytes=weights_bytes,
            recipients=site.federation.peers_of(site.name),
        )

    def _publish(self, part: Path, manifest: Manifest) -> None:
        data = manifest.to_bytes()
        try:
            parse(data)
        except RejectedError as error:
            raise ConfigError(
                f"no peer would take our offer: {error}", hint="the trainer states a fact that is not allowed"
            ) from error
        key = identity.load_site_key(self.site.private_key, self.site.member.public_key)
        signature = identity.sign(key, data)
        part.replace(self.folder / manifest.payload)
        sync_folder(self.folder)
        write_durably(self.folder / names.signature_name(manifest.sequence), signature)
        write_durably(self.folder / names.manifest_name(manifest.sequence), data)

    def _remove_all_but(self, kept: list[int]) -> None:
        """Remove published files, each manifest first, so that no offer is ever seen without its files."""
        published = [path for path in self.folder.iterdir() if names.is_published(path.name)]
        old = [path for path in published if names.sequence_of(path.name) not in kept]
        for path in sorted(old, key=lambda path: (path.suffix != ".json", path.name)):
            remove(path)

    def _whole(self) -> list[int]:
        return names.whole(path.name for path in self.folder.iterdir())
