"""What site.toml and federation.toml say about the way to a peer reaches the transport."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peer_sync import routes
from peer_sync.site import Jump
from peer_sync.transport.folder import FolderTransport

JUMP = Jump("sftp://gate@192.0.2.1:2222", "ssh-ed25519 AAAA", ("south",))


@pytest.fixture
def asked(monkeypatch) -> list[dict[str, object]]:
    """What a transport was made with, each time."""
    found = []

    def noting(address, host_key, private_key, user, **more: object) -> FolderTransport:
        found.append({"address": address, "host_key": host_key, "key": private_key, "user": user, **more})
        return FolderTransport("nowhere")

    monkeypatch.setattr("peer_sync.transport.sftp.SftpTransport", noting)
    return found


def test_a_site_goes_as_itself(served_sites, asked):
    """With its own key and name, to the pinned host, by the carrier of its choice."""
    north, south = served_sites["north"], served_sites["south"].member

    routes.way_to(replace(north, carrier="ssh"), "south")

    assert asked == [
        {
            "address": south.address,
            "host_key": south.host_key,
            "key": north.private_key,
            "user": "north",
            "key_line": north.member.public_key,
            "carrier": "ssh",
            "jump": None,
        }
    ]


@pytest.mark.parametrize(
    ("peers", "to_south", "to_relay"),
    [(("south",), True, False), (("north",), False, False), ((), False, False), (None, True, True)],
)
def test_a_jump_host_is_for_those_behind_it(served_sites, asked, peers, to_south, to_relay):
    """Without a list, for everybody, and for the relay as well."""
    jump = replace(JUMP, peers=peers)
    north = replace(
        served_sites["north"], jump=jump, relay="sftp://192.0.2.9", relay_host_key="ssh-ed25519 AAAA"
    )

    routes.way_to(north, "south")
    routes.way_to_relay(north)

    assert [made["jump"] for made in asked] == [jump if used else None for used in (to_south, to_relay)]
