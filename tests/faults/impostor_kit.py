"""A server that serves a peer's offers and would let everybody in, but has another host key."""

from __future__ import annotations

import shutil

from courier_kit import free_port

from peer_sync.identity import generate_key
from peer_sync.site import Site, load_site


def with_another_host_key(south: Site) -> Site:
    """The same site with a copy of its offers, in a folder of its own, on a port of its own."""
    folder = south.path.parent
    key = generate_key(folder / "keys" / "other_host")
    text = (folder / "federation.toml").read_text().replace(south.member.host_key, key)
    (folder / "other_federation.toml").write_text(text)
    text = south.path.read_text()
    for old, new in (
        ("federation.toml", "other_federation.toml"),
        ("keys/south_host", "keys/other_host"),
        ('folder = "south"', 'folder = "other"'),
        (f"127.0.0.1:{south.listen[1]}", f"127.0.0.1:{free_port()}"),
    ):
        text = text.replace(old, new)
    (folder / "other.toml").write_text(text)
    shutil.copytree(south.folder / "outbox", folder / "other" / "outbox")
    return load_site(folder / "other.toml")
