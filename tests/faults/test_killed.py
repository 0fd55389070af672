"""SIGKILL: of the peer in the middle of a transfer, and of this site anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kill_process
import pytest
from courier_kit import build_sites
from process_kit import SIZE_BYTES, environment
from proxy_kit import doing_after, whole
from sshd_kit import SSHD, running_sshd

from peer_sync.server.process import ServerProcess
from peer_sync.site import Site, load_site

MOMENTS = (0, 900, 2500, 60_000, 700_000)
"""Bytes from the server: nothing yet, key exchange, login, early and late in the weights."""


def test_the_peer_is_killed_while_it_is_read(pair, start, record_property):
    """The peer and its server are killed in the middle of a transfer.

    At five moments, from the first byte to the end of the weights: this site goes on, offers, and takes
    the weights when the peer is back.
    """
    north, south = start("north"), start("south")
    for round_, count in enumerate(MOMENTS, start=1):
        south.offer(round_)
        pair.proxy.shape = doing_after(count, south.kill)

        north.exchange(round_, "south")
        south.process.wait(60)
        pair.proxy.shape = whole
        south = start("south")

        north.accepted(round_, "south", round_)
    north.end()
    south.end()
    record_property("cases", len(MOMENTS))


def begun(site: Site) -> Path:
    """The payload of south that has begun to come."""
    (path,) = (site.folder / "inbox" / ".begun-south").iterdir()
    return path


def test_a_broken_download_continues(pair, start, record_property):
    """This site is killed three times in the middle of one download.

    Each start goes on where the last one stopped: all in all little more than the weights' bytes cross
    the network, and they are accepted once.
    """
    start("south").offer(1)
    came = 0
    for round_ in range(1, 4):
        north = start("north")
        pair.proxy.shape = doing_after(400_000, north.kill)
        north.exchange(round_, "south")
        north.process.wait(60)
        assert came < begun(pair.north).stat().st_size < SIZE_BYTES
        came = begun(pair.north).stat().st_size
    pair.proxy.shape = whole
    north = start("north")

    north.exchange(4, "south")

    assert north.accepted(4, "south", 1)["bytes"] < SIZE_BYTES - came + 10_000
    assert not list((pair.north.folder / "inbox" / ".begun-south").iterdir())
    north.end()
    record_property("cases", 3)


@pytest.mark.parametrize("change", ["a flipped bit", "zeros", "more than the whole"])
def test_a_broken_download_that_was_damaged(pair, start, change):
    """What had come of a broken download is damaged on this site's disk.

    It is noticed, and the weights are fetched once more from the beginning and accepted.
    """
    start("south").offer(1)
    north = start("north")
    pair.proxy.shape = doing_after(600_000, north.kill)
    north.exchange(1, "south")
    north.process.wait(60)
    pair.proxy.shape = whole
    path = begun(pair.north)
    data = bytearray(path.read_bytes())
    if change == "a flipped bit":
        data[1000] ^= 1
    elif change == "zeros":
        data[-4096:] = bytes(4096)
    else:
        data += bytes(SIZE_BYTES)
    path.write_bytes(data)
    north = start("north")

    north.exchange(2, "south")

    assert north.accepted(2, "south", 1)["bytes"] >= SIZE_BYTES
    assert north.said() == ""
    north.end()


def killed(work: str, folder: Path) -> int:
    """How many processes were killed; everything between and after them was as it must be."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", kill_process.__file__, work, str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stderr == ""
    return int(ended.stdout)


def test_killed_before_any_line_of_an_offer(memory_path, record_property):
    """This site is killed while it offers, once before each line of code.

    Peers never see half an offer, no number stands for two offers, no weights are out twice, and the
    next start cleans up and offers.
    """
    build_sites(memory_path)

    kills = killed("offer", memory_path)

    assert kills > 400
    record_property("cases", kills)


def test_killed_while_weights_are_copied_into_the_outbox(memory_path, record_property):
    """This site is killed at random moments of an offer of 8 MiB from another disk.

    As above, in the middle of writing bytes.
    """
    build_sites(memory_path)

    kills = killed("offer-large", memory_path)

    assert kills > 10
    record_property("cases", kills)


def test_killed_before_any_line_of_collecting(memory_path, record_property):
    """This site is killed while it collects from a folder, once before each line of code.

    State and ledger stay readable, no offer is accepted twice or lost, and the next start takes what is
    there.
    """
    build_sites(memory_path)

    kills = killed("collect", memory_path)

    assert kills > 300
    record_property("cases", kills)


def test_killed_while_weights_arrive(memory_path, record_property):
    """This site is killed at random moments of collecting 8 MiB.

    As above, in the middle of writing bytes.
    """
    build_sites(memory_path)

    kills = killed("collect-large", memory_path)

    assert kills > 10
    record_property("cases", kills)


def test_killed_while_it_collects_over_sftp(memory_path, record_property):
    """This site is killed while it collects over SFTP, before random lines of code.

    As above, and the peer's server is none the worse for it.
    """
    server = ServerProcess(build_sites(memory_path, served=True)["south"])
    try:
        kills = killed("collect-sftp", memory_path)
    finally:
        server.stop()

    assert kills > 20
    record_property("cases", kills)


def use_relay(folder: Path, address: str, **more: str) -> None:
    """Give south a relay."""
    (folder / "relay").mkdir()
    path = folder / "south.toml"
    lines = [f'{key} = "{value}"\n' for key, value in {"relay": address, **more}.items()]
    path.write_text(path.read_text() + "".join(lines))
    load_site(path)


def test_killed_while_it_copies_to_a_relay_folder(memory_path, record_property):
    """This site is killed while it offers and copies its outbox to a relay, once before each line of code.

    Peers never see half an offer at the relay; the next start makes relay and outbox equal.
    """
    build_sites(memory_path)
    use_relay(memory_path, "folder:relay")

    kills = killed("publish", memory_path)

    assert kills > 400
    record_property("cases", kills)


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
def test_killed_while_it_uploads_to_openssh(memory_path, record_property):
    """This site is killed while it uploads to a relay behind OpenSSH, before random lines of code.

    As above.
    """
    build_sites(memory_path)
    with running_sshd(memory_path / "sshd") as sshd:
        authorize(memory_path, sshd.login_key.parent / "authorized")
        use_relay(memory_path, sshd.address(memory_path / "relay"), relay_host_key=sshd.host_key)

        kills = killed("publish-sftp", memory_path)

    assert kills > 20
    record_property("cases", kills)


def authorize(folder: Path, file: Path) -> None:
    """Let south log in."""
    file.write_text((folder / "keys" / "south.pub").read_text())
