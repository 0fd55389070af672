"""SIGKILL: of the peer in the middle of a transfer, and of this site anywhere."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from courier_kit import build_sites
from process_kit import PATIENCE_SECONDS, SIZE_BYTES, SiteProcess, end, kill_many, wait_for
from proxy_kit import doing_after, whole
from relay_kit import openssh_relay, use_relay
from sshd_kit import SSHD

from peer_sync.server.process import ServerProcess
from peer_sync.site import Site

MOMENTS = (0, 900, 2500, 60_000, 700_000)
"""Bytes from the server: nothing yet, key exchange, login, early and late in the weights."""


FEW_LINES = 30
LINES = pytest.mark.parametrize(
    "lines",
    [
        pytest.param(120, id="some lines"),
        pytest.param(0, id="every line", marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)


@pytest.mark.usefixtures("carrier")
def test_the_peer_is_killed_while_it_is_read(pair, start, start_both, record_property):
    """The peer and its server are killed in the middle of a transfer.

    At five moments, from the first byte to the end of the weights: this site goes on, offers, and takes
    the weights when the peer is back.
    """
    north, south = start_both()
    for round_, count in enumerate(MOMENTS, start=1):
        south.offer(round_)
        pair.proxy.shape = doing_after(count, south.kill)

        north.exchange(round_, "south")
        south.process.wait(60)
        pair.proxy.shape = whole
        south = start("south")

        north.accepted(round_, "south", round_)
    end(north, south)
    record_property("cases", len(MOMENTS))


def test_the_own_server_is_killed(start_both):
    """This site's own server is killed while its training goes on.

    Told at the next round, started again, and the peer gets the weights.
    """
    north, south = start_both()
    south.offer(1)
    south.signal(signal.SIGKILL, server=True)
    north.exchange(1, "south")
    north.next("say")

    south.exchange(2, "north")

    north.accepted(1, "south", 2)
    assert "the server of this site had ended; it is started again" in south.said()
    end(north, south)


def begun(site: Site) -> Path:
    """The payload of south that has begun to come."""
    (path,) = (site.folder / "inbox" / ".begun-south").iterdir()
    return path


def broken_download(pair, north: SiteProcess, round_: int, came: int = 0) -> int:
    """Let north be killed in the middle of a download; returns how many bytes of the weights it has."""

    def kill() -> None:
        wait_for(lambda: begun(pair.north).stat().st_size > came, "progress on the disk")
        north.kill()

    pair.proxy.shape = doing_after(400_000, kill)
    north.exchange(round_, "south")
    north.process.wait(PATIENCE_SECONDS)
    pair.proxy.shape = whole
    now = begun(pair.north).stat().st_size
    assert came < now < SIZE_BYTES
    return now


@pytest.mark.usefixtures("carrier")
def test_a_broken_download_continues(pair, start, record_property):
    """This site is killed twice in the middle of one download.

    Each start goes on where the last one stopped: all in all little more than the weights' bytes cross
    the network, and they are accepted once.
    """
    south = start("south")
    south.offer(1)
    came = broken_download(pair, start("north"), 1)
    came = broken_download(pair, start("north"), 2, came)
    north = start("north")

    north.exchange(3, "south")

    assert north.accepted(3, "south", 1)["bytes"] < SIZE_BYTES - came + 10_000
    assert not list((pair.north.folder / "inbox" / ".begun-south").iterdir())
    end(north, south)
    record_property("cases", 2)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    "zeros at the end": lambda data: data[:-4096] + bytes(4096),
    "more than the whole": lambda data: data + bytes(SIZE_BYTES),
}


@pytest.mark.parametrize(
    "damage",
    [
        "a flipped bit",
        pytest.param("zeros at the end", marks=pytest.mark.slow),
        pytest.param("more than the whole", marks=pytest.mark.slow),
    ],
)
def test_a_broken_download_was_damaged(pair, start, damage):
    """What had come of a broken download is damaged on this site's disk before it continues.

    It is noticed, and the weights are fetched once more from the beginning and accepted.
    """
    south = start("south")
    south.offer(1)
    broken_download(pair, start("north"), 1)
    path = begun(pair.north)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    north = start("north")

    north.exchange(2, "south")

    assert north.accepted(2, "south", 1)["bytes"] >= SIZE_BYTES
    assert north.said() == ""
    end(north, south)


@LINES
def test_killed_before_any_line_of_an_offer(memory_path, record_property, lines):
    """This site is killed while it offers, once before each line of code.

    Peers never see half an offer, no number stands for two offers, no weights are out twice, and the
    next start cleans up and offers.
    """
    build_sites(memory_path)

    kills = kill_many("offer", memory_path, lines)

    assert kills >= (0.6 * lines or 400)
    record_property("cases", kills)


@pytest.mark.slow
def test_killed_while_weights_are_copied_into_the_outbox(memory_path, record_property):
    """This site is killed at random moments of an offer of 8 MiB from another disk.

    As above, in the middle of writing bytes.
    """
    build_sites(memory_path)

    kills = kill_many("offer-large", memory_path, "times")

    assert kills > 10
    record_property("cases", kills)


@LINES
def test_killed_before_any_line_of_collecting(memory_path, record_property, lines):
    """This site is killed while it collects from a folder, once before each line of code.

    State and ledger stay readable, no offer is accepted twice or lost, and the next start takes what is
    there.
    """
    build_sites(memory_path)

    kills = kill_many("collect", memory_path, lines)

    assert kills >= (0.6 * lines or 300)
    record_property("cases", kills)


@pytest.mark.slow
def test_killed_before_any_line_of_a_refusal(memory_path, record_property):
    """This site is killed while it refuses an offer, once before each line of code.

    Nothing is accepted, quarantine stays within its bounds, and the next start refuses it by its rule.
    """
    build_sites(memory_path)

    kills = kill_many("refuse", memory_path, 0)

    assert kills > 300
    record_property("cases", kills)


def test_killed_while_weights_arrive(memory_path, record_property):
    """This site is killed at random moments of collecting 8 MiB.

    As above, in the middle of writing bytes.
    """
    build_sites(memory_path)

    kills = kill_many("collect-large", memory_path, "times")

    assert kills > 10
    record_property("cases", kills)


def test_killed_while_it_collects_over_sftp(memory_path, record_property):
    """This site is killed while it collects over SFTP, before random lines of code.

    As above, and the peer's server is none the worse for it.
    """
    server = ServerProcess(build_sites(memory_path, served=True)["south"])
    try:
        kills = kill_many("collect", memory_path, FEW_LINES)
    finally:
        server.stop()

    assert kills > 20
    record_property("cases", kills)


@LINES
def test_killed_while_it_copies_to_a_relay_folder(memory_path, record_property, lines):
    """This site is killed while it offers and copies its outbox to a relay, once before each line of code.

    Peers never see half an offer at the relay; the next start makes relay and outbox equal.
    """
    build_sites(memory_path)
    use_relay(memory_path)

    kills = kill_many("publish", memory_path, lines)

    assert kills >= (0.6 * lines or 400)
    record_property("cases", kills)


@pytest.mark.slow
@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
def test_killed_while_it_uploads_to_openssh(memory_path, record_property):
    """This site is killed while it uploads to a relay behind OpenSSH, before random lines of code.

    As above.
    """
    build_sites(memory_path)
    with openssh_relay(memory_path):
        kills = kill_many("publish", memory_path, FEW_LINES)

    assert kills > 20
    record_property("cases", kills)
