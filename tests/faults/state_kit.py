"""What must be true of a site's folders, whatever happened to its process."""

from __future__ import annotations

import json
from pathlib import Path

from peer_sync import names
from peer_sync.identity import verify
from peer_sync.manifest import Manifest, parse
from peer_sync.site import Site
from peer_sync.storage import read_state, sha256_of


def visible_offers(site: Site, outbox: Path | None = None) -> dict[int, Manifest]:
    """What peers see in the outbox, or a copy: every manifest has its signature and its payload."""
    outbox = outbox or site.folder / "outbox"
    found = {}
    for path in sorted(outbox.glob("*.json")):
        data = path.read_bytes()
        manifest = parse(data)
        assert path.name == names.manifest_name(manifest.sequence)
        verify(site.member.public_key, data, (outbox / names.signature_name(manifest.sequence)).read_bytes())
        assert (outbox / manifest.payload).stat().st_size == manifest.payload_bytes
        assert sha256_of(outbox / manifest.payload) == manifest.sha256
        found[manifest.sequence] = manifest
    return found


def check_at_rest(site: Site, broken_lines: int = 0) -> dict[int, Manifest]:
    """After a clean start or end nothing is half: no parts, no incomplete offer, readable state and ledger.

    Returns:
        The offers by sequence.
    """
    for folder in ("outbox", "inbox", "state"):
        assert list((site.folder / folder).glob(".part-*")) == [], folder
    offers = visible_offers(site)
    published = {path.name for path in (site.folder / "outbox").iterdir()}
    assert published == {
        name
        for sequence, offer in offers.items()
        for name in (names.manifest_name(sequence), names.signature_name(sequence), offer.payload)
    }
    used = int(read_state(site.folder / "state" / "sequence.json").get("sequence", 0))
    assert used >= max(offers, default=0)
    for path in (site.folder / "state").glob("peer-*.json"):
        read_state(path)
    ledger(site, broken_lines)
    return offers


def ledger(site: Site, broken_lines: int = 0, **facts: object) -> list[dict]:
    """The lines of the ledger that have these facts; so many may be broken."""
    path = site.folder / "ledger.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            broken_lines -= 1
    assert broken_lines >= 0
    return [line for line in lines if all(line[name] == fact for name, fact in facts.items())]
