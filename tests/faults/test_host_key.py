"""The peer's server shows another host key than the one pinned in federation.toml."""

from __future__ import annotations

from impostor_kit import with_another_host_key
from process_kit import end
from state_kit import ledger

from peer_sync.orders import WITHOUT_PEER
from peer_sync.server.process import ServerProcess


def test_the_host_key_changed(pair, carrier, start_both):
    """The peer's server comes back with another host key, and would let this site in.

    Refused by rule host-key, told with peer and pinned key; no login is tried and no key is shown; with
    the pinned key back the next exchange works.
    """
    north, south = start_both()
    south.offer(1)
    hidden, other = pair.proxy.target, with_another_host_key(pair.south)
    impostor = ServerProcess(other)
    pair.proxy.target = other.listen[1]

    north.exchange(1, "south")
    message = north.next("say")["say"]
    impostor.stop()
    pair.proxy.target = hidden
    north.exchange(2, "south")

    north.accepted(2, "south", 1)
    assert message.startswith("peer 'south', round 1, rule host-key: ")
    assert message.endswith(WITHOUT_PEER)
    assert pair.south.member.host_key in message
    assert other.member.host_key in message or carrier == "ssh"
    log = (other.folder / "server.log").read_text()
    assert not [word for word in ("north", "key of", "logged in") if word in log]
    (line,) = ledger(north.site, event="collect", verdict="refused")
    assert (line["rule"], line["bytes"]) == ("host-key", 0)
    end(north, south)
