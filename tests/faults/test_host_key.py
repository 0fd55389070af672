"""The peer's server shows another host key than the one pinned in federation.toml."""

from __future__ import annotations

import shutil

import pytest
from process_kit import end
from state_kit import ledger

from peer_sync.identity import generate_key
from peer_sync.orders import WITHOUT_PEER
from peer_sync.server.process import ServerProcess
from peer_sync.site import Site, load_site


def with_another_host_key(south: Site) -> Site:
    """The same site, with the same offers, on a server with a fresh host key; in a folder of its own."""
    folder = south.path.parent
    key = generate_key(folder / "keys" / "other_host")
    text = (folder / "federation.toml").read_text().replace(south.member.host_key, key)
    (folder / "other_federation.toml").write_text(text)
    text = south.path.read_text().replace("federation.toml", "other_federation.toml")
    text = text.replace("keys/south_host", "keys/other_host").replace('folder = "south"', 'folder = "other"')
    (folder / "other.toml").write_text(text)
    shutil.copytree(south.folder / "outbox", folder / "other" / "outbox")
    return load_site(folder / "other.toml")


@pytest.mark.usefixtures("carrier")
def test_the_host_key_changed(pair, start, start_both):
    """The peer's server is restarted with another host key, and would let this site in.

    Refused by rule host-key, told with peer and both keys; no login is tried and no key is shown; with
    the pinned key back the next exchange works.
    """
    north, south = start_both()
    south.offer(1)
    south.end()
    other = with_another_host_key(pair.south)
    impostor = ServerProcess(other)

    north.exchange(1, "south")
    message = north.next("say")["say"]
    impostor.stop()
    south = start("south")
    north.exchange(2, "south")

    north.accepted(2, "south", 1)
    assert message.startswith("peer 'south', round 1, rule host-key: ")
    assert message.endswith(WITHOUT_PEER)
    assert pair.south.member.host_key in message
    assert other.member.host_key in message
    log = (other.folder / "server.log").read_text()
    assert "north" not in log
    assert "key of" not in log
    (line,) = ledger(north.site, event="collect", verdict="refused")
    assert (line["rule"], line["bytes"]) == ("host-key", 0)
    end(north, south)
