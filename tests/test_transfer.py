"""Long transfers: new keys on the way, bounded memory, and the buffer between connection and reader."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sshd_kit import SSHD, running_sshd

import peer_sync
from peer_sync.names import payload_name
from peer_sync.ssh import BoundedPacketizer, BoundedTransport, ChunkPipe, ReadAhead, send_all
from peer_sync.transport.sftp import SftpTransport

NAME = payload_name(1, "a" * 64)
MIB = 1 << 20
STEPS = st.lists(st.one_of(st.binary(max_size=9000), st.integers(1, 9000)), max_size=60)
PEAK = """
import resource, sys
from pathlib import Path
from peer_sync.transport.sftp import SftpTransport
address, host_key, key, carrier, verb, small, large, target = sys.argv[1:]
way = SftpTransport(address, host_key, Path(key), "nobody", carrier=carrier)
def move(name):
    if verb == "get":
        way.get(name, Path(target) / name, 1 << 40)
    else:
        way.put(Path(target) / name, "copy")
move(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
move(large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
way.close()
"""


@given(steps=STEPS)
def test_the_pipe_is_a_pipe(steps):
    """Whatever is fed and read in whatever pieces comes out in order, and its length is always known."""
    pipe, expected = ChunkPipe(), b""
    for step in steps:
        if isinstance(step, bytes):
            pipe.feed(step)
            expected += step
        elif expected:
            assert pipe.read(step, 0.0) == expected[:step]
            expected = expected[step:]
        assert len(pipe) == len(expected)
        assert pipe.read_ready() == bool(expected)

    assert pipe.empty() == expected
    assert pipe.empty() == b""


def test_an_empty_pipe_waits_and_a_closed_one_ends():
    """As the library's own."""
    pipe = ChunkPipe()

    with pytest.raises(paramiko.buffered_pipe.PipeTimeout):
        pipe.read(10, 0.0)
    pipe.close()
    assert pipe.read(10, 0.0) == b""


def test_single_bytes_cost_little_more_than_a_byte():
    """A stranger may fill the window byte by byte; an object for each would be sixty times as much."""
    pipe = ChunkPipe()
    tracemalloc.start()
    for _ in range(MIB // 4):
        pipe.feed(b"x")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size < MIB // 2


def test_every_channel_has_that_pipe():
    """Before anything can arrive in it."""
    one, other = socket.socketpair()
    transport, channel = BoundedTransport(one), paramiko.Channel(7)

    transport._channels.put(7, channel)

    assert isinstance(channel.in_buffer, ChunkPipe)
    transport.close()
    other.close()


@given(data=st.binary(max_size=500), at_most=st.integers(1, 50))
def test_everything_is_sent(data, at_most):
    """However little the channel takes at a time."""
    sent = bytearray()

    class Channel:
        def send(self, rest: memoryview) -> int:
            sent.extend(rest[:at_most])
            return len(rest[:at_most])

    send_all(Channel(), data)

    assert bytes(sent) == data


def test_a_closed_channel_takes_nothing():
    """That is an end, not an endless loop."""

    class Closed:
        def send(self, rest: memoryview) -> int:
            return 0

    with pytest.raises(EOFError):
        send_all(Closed(), b"data")


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=20), counts=st.lists(st.integers(1, 200))
)
def test_reading_ahead_loses_nothing(pieces, counts):
    """In whatever pieces it comes and is asked for, and an end stays an end."""
    coming, expected, found = iter(pieces), b"".join(pieces), b""

    class Socket:
        send = close = None

        def recv(self, count: int) -> bytes:
            return next(coming, b"")

    ahead = ReadAhead(Socket())
    for count in [*counts, *[300] * (len(pieces) + 1)]:
        piece = ahead.recv(count)
        assert len(piece) <= count
        found += piece

    assert found == expected
    assert ahead.recv(1) == b""


@pytest.fixture
def key_exchanges(monkeypatch) -> list[int]:
    """Gets longer with each, on our side."""
    found = []
    exchanged = BoundedTransport._activate_inbound

    def noting(self: BoundedTransport) -> None:
        found.append(1)
        exchanged(self)

    monkeypatch.setattr(BoundedTransport, "_activate_inbound", noting)
    return found


@pytest.fixture
def outbox(tmp_path):
    """A folder with eight MiB in one file."""
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / NAME).write_bytes(os.urandom(8 * MIB))
    return tmp_path / "outbox"


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
@pytest.mark.parametrize("who", ["we", "they"])
def test_new_keys_in_the_middle_of_a_transfer(who, key_exchanges, monkeypatch, tmp_path, outbox):
    """Asked for by either side, every MiB: nothing is lost, there or back."""
    if who == "we":
        monkeypatch.setattr(BoundedPacketizer, "REKEY_BYTES", MIB)
    more = "RekeyLimit 1M" if who == "they" else ""
    with running_sshd(tmp_path / "sshd", more) as sshd:
        way = SftpTransport(sshd.address(outbox), sshd.host_key, sshd.login_key, "nobody")
        way.get(NAME, tmp_path / "target", 8 * MIB)
        downwards = len(key_exchanges)
        way.put(tmp_path / "target", "copy")
        way.close()

    assert downwards >= 2
    assert len(key_exchanges) - downwards >= 2
    assert (outbox / "copy").read_bytes() == (outbox / NAME).read_bytes()


def test_new_keys_from_the_embedded_server(
    key_exchanges, monkeypatch, served_sites, server, tmp_path, outbox
):
    """Both ends are ours, and both ask; each counts the first keys and at least one change."""
    monkeypatch.setattr(BoundedPacketizer, "REKEY_BYTES", MIB)
    south, content = served_sites["south"], (outbox / NAME).read_bytes()
    (south.folder / "outbox" / NAME).write_bytes(content)
    way = SftpTransport(
        south.member.address, south.member.host_key, served_sites["north"].private_key, "north"
    )

    way.get(NAME, tmp_path / "target", 8 * MIB)
    way.close()

    assert len(key_exchanges) >= 4
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
@pytest.mark.parametrize("carrier", ["paramiko", "ssh"])
@pytest.mark.parametrize("verb", ["get", "put"])
def test_memory_does_not_grow_with_the_file(verb, carrier, tmp_path, outbox):
    """Of 200 MiB, at most 32 are ever in memory."""
    small, large = "small", "large"
    sources = outbox if verb == "get" else tmp_path
    for name, size in ((small, MIB), (large, 200 * MIB)):
        with (sources / name).open("wb") as file:
            file.truncate(size)
    with running_sshd(tmp_path / "sshd") as sshd:
        arguments = (
            sshd.address(outbox),
            sshd.host_key,
            sshd.login_key,
            carrier,
            verb,
            small,
            large,
            tmp_path,
        )
        grown = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(Path(peer_sync.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert int(grown) < 32 * 1024
