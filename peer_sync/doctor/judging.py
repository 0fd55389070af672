"""Judges a manifest by the rules of the protocol, without the memory of having done so."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from peer_sync import manifest as manifests
from peer_sync import names
from peer_sync.checks import MANIFEST_MAX_BYTES, SIGNATURE_MAX_BYTES, Expectation, check_manifest
from peer_sync.errors import ConfigError, NotFoundError
from peer_sync.manifest import Manifest
from peer_sync.memory import Judged, Memory
from peer_sync.site import Site
from peer_sync.transport import Transport

LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)


def newest(site: Site, owner: str, transport: Transport) -> Manifest:
    """The newest manifest in an outbox; it keeps every rule but those of plans, schema and expiry.

    Args:
        site: who looks; its federation has the keys.
        owner: whose outbox it is; may be the site itself.
        transport: the way there.

    Raises:
        NotFoundError: there is no whole offer.
        TransportError: the way failed.
        RejectedError: a rule is broken.
    """
    for _ in range(2):
        sequence = names.newest_whole(transport.names())
        if not sequence:
            raise NotFoundError("the outbox holds no whole offer")
        try:
            with tempfile.TemporaryDirectory(prefix="nnunet-gml-") as folder:
                data, signature = Path(folder) / "manifest", Path(folder) / "signature"
                transport.get(names.manifest_name(sequence), data, MANIFEST_MAX_BYTES)
                transport.get(names.signature_name(sequence), signature, SIGNATURE_MAX_BYTES)
                return _judged(site, owner, data.read_bytes(), signature.read_bytes(), sequence)
        except NotFoundError:
            continue
    raise NotFoundError("the newest offer vanished while it was read, twice")


def _judged(site: Site, owner: str, data: bytes, signature: bytes, sequence: int) -> Manifest:
    """Judge as if we had no plans, no network, and all the time of the world."""
    found = manifests.parse(data)
    reader = next(iter(found.recipients), "") if owner == site.name else site.name
    expected = Expectation(
        site=reader,
        peer=owner,
        public_key=site.federation.member(owner).public_key,
        federation=site.federation.digest,
        federation_version=site.federation.version,
        plans_digest=found.plans_digest,
        schema_digest=found.schema_digest,
        max_payload_bytes=site.federation.max_payload_bytes,
        payload_bytes={found.dtype: found.weights_bytes},
        last=_last_before(site, owner, data, sequence),
        now=LONG_AGO,
    )
    return check_manifest(data, signature, sequence, expected)


def _last_before(site: Site, owner: str, data: bytes, sequence: int) -> Judged:
    """The last offer that was judged, other than this very one."""
    try:
        last = Memory(site.folder / "state").judged(owner)
    except (ConfigError, ValueError):
        return Judged()
    is_same = sequence == last.sequence and last.digest in ("", sha256(data).hexdigest())
    return replace(last, sequence=last.sequence - 1) if is_same else last
