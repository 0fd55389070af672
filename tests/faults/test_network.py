"""A network that loses, changes, delays and mixes up what it carries."""

from __future__ import annotations

import pytest
from courier_kit import free_port
from process_kit import end, wait_for
from proxy_kit import (
    cut_after,
    flipped_at,
    silent_after,
    slowed_after,
    swapped_after,
    trickling_after,
    truncated_after,
    whole,
)
from relay_kit import openssh_relay
from sshd_kit import SSHD
from state_kit import ledger, visible_offers

from peer_sync.orders import WITHOUT_PEER

PLACES = (10, 1200, 400_000)
"""Bytes from the server: in the greeting, in the key exchange, in the weights."""


def survives(pair, start_both, shapes) -> None:
    """In one round after the other the network breaks, is told of, and heals; the weights come."""
    north, south = start_both()
    for round_, shape in enumerate(shapes, start=1):
        south.offer(round_)
        pair.proxy.shape = shape

        north.exchange(round_, "south")
        assert "training goes on" in north.next("say")["say"]
        pair.proxy.shape = whole

        north.accepted(round_, "south", round_)
    assert len(ledger(north.site, event="offer", verdict="offered")) == len(shapes)
    end(north, south)


@pytest.mark.usefixtures("carrier")
def test_the_connection_breaks(pair, start_both, record_property):
    """The network cuts the connection in the greeting, in the key exchange, in the weights.

    Told, tried again, and the weights come over the next connection.
    """
    survives(pair, start_both, [cut_after(place) for place in PLACES])
    record_property("cases", len(PLACES))


@pytest.mark.usefixtures("carrier")
def test_the_connection_ends_too_early(pair, start_both, record_property):
    """The network ends the connection in an orderly way before all data came.

    As above: a shortened transfer is never taken for a whole one.
    """
    survives(pair, start_both, [truncated_after(place) for place in PLACES])
    record_property("cases", len(PLACES))


@pytest.mark.usefixtures("carrier")
def test_packets_are_dropped(pair, start_both, record_property):
    """The network drops everything after some bytes, and nobody says so.

    Given up after the agreed silence, told, tried again.
    """
    survives(pair, start_both, [silent_after(place) for place in PLACES[1:]])
    record_property("cases", len(PLACES[1:]))


@pytest.mark.usefixtures("carrier")
def test_bits_are_flipped_on_the_way(pair, start_both, record_property):
    """The network flips a bit in the key exchange and in the weights.

    SSH notices; told, tried again, and nothing wrong is accepted.
    """
    survives(pair, start_both, [flipped_at(place) for place in PLACES[1:]])
    record_property("cases", len(PLACES[1:]))


def test_packets_change_places(pair, start_both, record_property):
    """The network delivers two pieces of a connection in the wrong order.

    As above.
    """
    survives(pair, start_both, [swapped_after(place) for place in PLACES[1:]])
    record_property("cases", len(PLACES[1:]))


@pytest.mark.usefixtures("carrier")
def test_a_trickle(pair, start_both, record_property):
    """The network lets through ten bytes a second in the middle of the weights, then 54 kB a second.

    Dropped, though it is never silent: for no packet within the agreed time, and for less than 64 KiB a
    second; told, tried again.
    """
    survives(pair, start_both, [trickling_after(400_000, 0.1), slowed_after(400_000, 0.075)])
    record_property("cases", 2)


def test_a_long_way(pair, start_both):
    """Every piece of data is late by 10 ms.

    Slow is no failure: the exchange works at the first attempt, and nothing is told.
    """
    north, south = start_both(patient=True)
    south.offer(1)
    pair.proxy.shape = slowed_after(0, 0.01)

    north.exchange(1, "south")

    assert north.accepted(1, "south", 1)["retries"] == 0
    assert north.said() == ""
    end(north, south)


def test_connections_are_reordered(pair, start_both):
    """The network holds the first connection until the second comes, and serves the second first.

    The first attempt is given up, the second works; nothing comes twice.
    """
    north, south = start_both()
    south.offer(1)
    pair.proxy.reversed_in = 2

    north.exchange(1, "south")
    wait_for(lambda: pair.proxy.connections == 2, "second connection")
    pair.proxy.reversed_in = 1

    north.accepted(1, "south", 1)
    assert len(ledger(north.site, event="collect", verdict="accepted")) == 1
    end(north, south)


@pytest.mark.usefixtures("carrier")
def test_a_connection_goes_astray(pair, start_both):
    """The network leads the connection to another site's server.

    Refused by rule host-key before anything is sent; the next exchange works.
    """
    north, south = start_both()
    south.offer(1)
    pair.proxy.detour = [pair.north.listen[1]]

    north.exchange(1, "south")
    message = north.next("say")["say"]
    assert message.startswith("peer 'south', round 1, rule host-key: ")
    assert message.endswith(WITHOUT_PEER)
    north.exchange(2, "south")

    north.accepted(2, "south", 1)
    (line,) = ledger(north.site, event="collect", verdict="refused")
    assert line["rule"] == "host-key"
    end(north, south)


@pytest.mark.usefixtures("carrier")
def test_nobody_listens(pair, start):
    """The peer's machine is there, but nothing listens on its port.

    Told once, tried again and again, and found when the server starts.
    """
    north, hidden = start("north"), pair.proxy.target
    pair.proxy.target = free_port()
    north.exchange(1, "south")
    north.next("say")
    wait_for(lambda: pair.proxy.connections > 3, "fourth attempt")
    pair.proxy.target = hidden
    south = start("south")
    south.offer(1)

    assert north.accepted(1, "south", 1)["retries"] > 2
    assert len(north.said().splitlines()) <= 3
    end(north, south)


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
def test_an_upload_to_a_relay_breaks(pair, start_both):
    """The connection to the relay, an OpenSSH server, breaks twice in the middle of an upload.

    Told, tried again; nothing half is ever visible there, and then the offer is whole.
    """
    folder = pair.south.path.parent
    with openssh_relay(folder) as way:
        north, south = start_both()
        way.upward = cut_after(500_000)
        south.exchange(1, "north")
        wait_for(lambda: "relay, round 1: " in south.said(), "word about the relay")
        wait_for(lambda: way.connections > 2, "third attempt")
        assert visible_offers(pair.south, folder / "relay") == {}
        way.upward = whole

        wait_for(lambda: ledger(south.site, event="publish", verdict="published"), "offer at the relay")
        assert visible_offers(pair.south, folder / "relay") == visible_offers(pair.south)
        end(north, south)
    assert len(list((folder / "relay").iterdir())) == 3
