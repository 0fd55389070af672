"""The SFTP client against servers that misbehave."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import hostile_kit
import paramiko
import pytest
from courier_kit import free_port, wait_for
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st
from sshd_kit import SSH

from peer_sync.address import Address, Patience, dial, parse_address
from peer_sync.errors import ConfigError, LoginError, RejectedError, TransportError
from peer_sync.identity import generate_key
from peer_sync.names import payload_name
from peer_sync.transport import session
from peer_sync.transport.connection import ParamikoConnection
from peer_sync.transport.sftp import SftpTransport
from peer_sync.transport.window import read_all, write_all

NAME = payload_name(1, "a" * 64)
needs_ssh = pytest.mark.skipif(SSH is None, reason="ssh is not installed")
CARRIERS = ["paramiko", pytest.param("ssh", marks=needs_ssh)]
HASTE = Patience(connect_seconds=1, login_seconds=2, silence_seconds=1, deadline_seconds=3)
"""For servers that do not answer; whoever does answer is given the usual time."""


@pytest.fixture
def transport(served_sites, server):
    """North's way to south's embedded server."""
    south = served_sites["south"].member
    made = SftpTransport(south.address, south.host_key, served_sites["north"].private_key, "north")
    yield made
    made.close()


@pytest.fixture
def deaf_port():
    """A server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sftp://192.0.2.7:40221", Address("192.0.2.7", 40221, "", "")),
        ("sftp://me@host.example/a/b/", Address("host.example", 22, "me", "/a/b")),
        ("sftp://[::1]:2222/x%20y", Address("::1", 2222, "", "/x y")),
    ],
)
def test_an_address_in_parts(text, expected):
    """User, host, port and folder, each with its default."""
    assert parse_address(text) == expected


def test_another_host_key_is_refused_before_login(tmp_path, served_sites, server):
    """Both keys are named, and it is no failure that passes."""
    other = generate_key(tmp_path / "other")
    transport = SftpTransport(
        served_sites["south"].member.address, other, served_sites["north"].private_key, "north"
    )

    with pytest.raises(RejectedError, match="host key of sftp://") as caught:
        transport.names()
    assert caught.value.rule == "host-key"
    assert other in str(caught.value)


def test_a_key_the_server_does_not_know_cannot_log_in(tmp_path, served_sites, server):
    """The hint says whose key is unknown to whom."""
    generate_key(tmp_path / "stranger")
    south = served_sites["south"].member
    transport = SftpTransport(south.address, south.host_key, tmp_path / "stranger", "north")

    with pytest.raises(LoginError, match="login as 'north'") as caught:
        transport.names()
    assert "does not know this site's key" in caught.value.hint


def test_a_key_file_that_became_readable_is_not_used(served_sites, transport):
    """The check is made at each login."""
    served_sites["north"].private_key.chmod(0o644)

    with pytest.raises(ConfigError, match="can be read by others"):
        transport.names()


def test_nobody_listening_is_a_failure_that_passes(tmp_path, served_sites):
    """The message names address and reason."""
    south, port = served_sites["south"].member, free_port()
    transport = SftpTransport(
        f"sftp://127.0.0.1:{port}", south.host_key, served_sites["north"].private_key, "north"
    )

    with pytest.raises(TransportError, match=f":{port}: expected an answer, found Connection refused"):
        transport.names()


def test_a_server_that_never_speaks_is_left(served_sites, deaf_port):
    """Within the login time, not never."""
    south = served_sites["south"].member
    transport = SftpTransport(
        f"sftp://127.0.0.1:{deaf_port}", south.host_key, served_sites["north"].private_key, "north", HASTE
    )
    started = time.monotonic()

    with pytest.raises(TransportError):
        transport.names()
    assert time.monotonic() - started < 60


def test_a_call_has_a_deadline(monkeypatch, served_sites, server, tmp_path):
    """The watchdog cuts it off, whatever the server still means to send."""
    (served_sites["south"].folder / "outbox" / NAME).write_bytes(b"x" * 10)
    monkeypatch.setattr("peer_sync.server.served.ServedFolder.open", lambda *_: time.sleep(2))

    with (
        way_to(served_sites, served_sites["south"].listen[1], Patience(deadline_seconds=0.5)) as transport,
        pytest.raises(TransportError, match=r"expected an end within 0.5 s, found none"),
    ):
        transport.get(NAME, tmp_path / "target", 10)


def test_a_call_that_ends_just_too_late_leaves_no_dead_connection(monkeypatch, served_sites, server):
    """It has its result all the same, and the next call connects afresh."""
    patience = Patience(deadline_seconds=5)
    with way_to(served_sites, served_sites["south"].listen[1], patience) as transport:
        assert transport.names() == []
        first = transport._connection
        with monkeypatch.context() as patch:
            patch.setattr(
                session.BoundedClient, "listing", lambda *_: wait_for(lambda: has_ended(first)) and []
            )
            assert transport.names() == []

        assert transport.names() == []


def has_ended(connection: ParamikoConnection) -> bool:
    """Whether the watchdog has closed it."""
    return not connection._client.get_channel().get_transport().is_active()


def test_silence_is_a_failure(monkeypatch, served_sites, server, tmp_path):
    """No packet for longer than agreed."""
    (served_sites["south"].folder / "outbox" / NAME).write_bytes(b"x" * 10)
    monkeypatch.setattr("peer_sync.server.served.read_at", lambda *_: time.sleep(1.8) or b"x")

    with (
        way_to(served_sites, served_sites["south"].listen[1]) as transport,
        pytest.raises(TransportError),
    ):
        transport.get(NAME, tmp_path / "target", 10)


def test_a_file_that_shrinks_is_not_a_success(monkeypatch, served_sites, transport, tmp_path):
    """The library's own get() calls this a success."""
    (served_sites["south"].folder / "outbox" / NAME).write_bytes(b"x" * 1000)
    monkeypatch.setattr(
        "peer_sync.server.served.read_at", lambda _, offset, length: b"x" * min(length, 10 - min(offset, 10))
    )

    with pytest.raises(TransportError, match="found an end at or before byte"):
        transport.get(NAME, tmp_path / "target", 1000)


def test_short_answers_are_put_together(monkeypatch, served_sites, transport, tmp_path):
    """A server may send less than was asked for."""
    content = os.urandom(700_000)
    (served_sites["south"].folder / "outbox" / NAME).write_bytes(content)
    monkeypatch.setattr("peer_sync.server.served.MAX_READ_BYTES", 100_000)

    transport.get(NAME, tmp_path / "target", len(content))

    assert (tmp_path / "target").read_bytes() == content


def test_close_from_another_thread_ends_a_transfer(monkeypatch, served_sites, transport, tmp_path):
    """The courier stops in time."""
    (served_sites["south"].folder / "outbox" / NAME).write_bytes(b"x" * 10)
    asked, closed = threading.Event(), threading.Event()
    monkeypatch.setattr("peer_sync.server.served.read_at", lambda *_: asked.set() or closed.wait(20) or b"x")
    started = time.monotonic()

    def close() -> None:
        asked.wait(60)
        transport.close()

    threading.Thread(target=close, daemon=True).start()
    with pytest.raises(TransportError):
        transport.get(NAME, tmp_path / "target", 10)
    assert time.monotonic() - started < 20
    closed.set()


def test_the_strong_ciphers_are_agreed_on(transport):
    """AES-GCM, whatever else both would know."""
    transport.names()

    assert (
        transport._connection.client().get_channel().get_transport().remote_cipher == "aes256-gcm@openssh.com"
    )


PRIVATE_NAMES = {
    paramiko.SFTPClient: (
        "_async_request",
        "_read_response",
        "_convert_status",
        "_request",
        "_read_all",
        "_read_packet",
        "_send_packet",
        "_send_version",
        "_write_all",
    ),
    paramiko.SFTPServer: ("_process", "_read_all", "_send_handle_response", "_send_status"),
    paramiko.Transport: ("_parse_ext_info", "_auth_trigger"),
    paramiko.packet.Packetizer: ("read_all", "_read_timeout"),
    paramiko.buffered_pipe.BufferedPipe: ("_buffer_frombytes", "_buffer_tobytes"),
    paramiko.transport.ChannelMap: ("put",),
}


@pytest.mark.parametrize("kind", PRIVATE_NAMES)
def test_the_private_names_we_use_are_there(kind):
    """paramiko may change them without notice: then this says so, not a transfer."""
    for name in PRIVATE_NAMES[kind]:
        assert callable(getattr(kind, name))


class Memory:
    """Requests that read and write a bytearray, and know how many are open."""

    def __init__(self, content: bytes = b"", short: int = 10**9) -> None:
        self.content = bytearray(content)
        self.short = short
        self.answers: dict[int, bytes] = {}
        self.most_open = 0

    def ask_read(self, offset: int, length: int) -> int:
        return self._note(bytes(self.content[offset : offset + min(length, self.short)]))

    def ask_write(self, offset: int, data: bytes) -> int:
        self.content[offset : offset + len(data)] = data
        return self._note(b"")

    def answer(self, number: int) -> bytes:
        return self.answers.pop(number)

    def _note(self, data: bytes) -> int:
        number = max(self.answers, default=0) + 1
        self.answers[number] = data
        self.most_open = max(self.most_open, len(self.answers))
        return number


@given(
    size=st.integers(0, 3000),
    start=st.integers(0, 3000),
    request=st.integers(1, 700),
    short=st.integers(1, 700),
)
def test_a_window_reads_everything_in_order(size, start, request, short):
    """From anywhere on, whatever the sizes, and with at most 64 requests open; each byte is counted once."""
    content = os.urandom(size)
    memory, found, counts = Memory(content, short), bytearray(), []

    read_all(memory, start, size, request, found.extend, counts.append)

    assert bytes(found) == content[start:]
    assert sum(counts) == len(found)
    assert memory.most_open <= 65


@given(size=st.integers(0, 3000), request=st.integers(1, 700))
def test_a_window_writes_everything(size, request):
    """With at most 32 requests open; each byte is counted once."""
    content, memory, counts = os.urandom(size), Memory(), []
    pieces = iter([content[start : start + request] for start in range(0, size, request)])

    write_all(memory, size, request, lambda _: next(pieces), counts.append)

    assert bytes(memory.content) == content
    assert sum(counts) == size
    assert memory.most_open <= 32


@contextmanager
def way_to(
    served_sites, port: int, patience: Patience = HASTE, carrier="paramiko"
) -> Iterator[SftpTransport]:
    """North's way to whatever pretends to be south at ``port``."""
    south, key = served_sites["south"].member, served_sites["north"].private_key
    transport = SftpTransport(
        f"sftp://127.0.0.1:{port}", south.host_key, key, "north", patience, carrier=carrier
    )
    yield transport
    transport.close()


def refusal(served_sites, reply, carrier: str = "paramiko") -> tuple[str, float]:
    """What the client says about a server that answers with ``reply``, and after how many seconds."""
    started = time.monotonic()
    with (
        hostile_kit.hostile_server(str(served_sites["south"].host_key), reply) as port,
        way_to(served_sites, port, Patience(deadline_seconds=200), carrier) as transport,
        pytest.raises(TransportError) as caught,
    ):
        transport.names()
    return str(caught.value), time.monotonic() - started


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (hostile_kit.names_with_attributes, "at most 16 extended attributes, found 4294967295"),
        (hostile_kit.no_names, "expected names"),
        (hostile_kit.huge_answer, "bytes in an answer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_answer_out_of_bounds_ends_the_call(served_sites, reply, found, carrier):
    """At once, not at the deadline."""
    message, seconds = refusal(served_sites, reply, carrier)

    assert found in message
    assert seconds < 100


def test_a_servers_text_cannot_forge_our_log(served_sites):
    """No line feed, no escape, and only its beginning."""
    message, _ = refusal(served_sites, hostile_kit.forged_text)

    assert message.isprintable()
    assert len(message) < 500
    assert r"no\n2026-11-21" in message


@pytest.mark.parametrize("error", [ValueError("bad point"), InvalidTag(), KeyError(250), AssertionError()])
def test_whatever_the_library_raises_is_a_failure_of_the_way(monkeypatch, transport, error):
    """Its thread meets errors of every kind in a stranger's bytes; the cause is kept."""

    def broken(self, *_: object) -> None:
        raise error

    monkeypatch.setattr(paramiko.Transport, "_parse_newkeys", broken)

    with pytest.raises(TransportError, match="cannot list the outbox") as caught:
        transport.names()
    assert caught.value.__cause__ is error


def test_a_deadline_during_the_connecting_counts(monkeypatch, served_sites, server):
    """The watchdog finds nothing to close yet; the call ends all the same."""

    def slowly(*arguments: object) -> socket.socket:
        time.sleep(0.5)
        return dial(*arguments)

    monkeypatch.setattr("peer_sync.transport.connection.dial", slowly)
    patience = Patience(deadline_seconds=0.1)

    with (
        way_to(served_sites, served_sites["south"].listen[1], patience) as transport,
        pytest.raises(TransportError, match="expected an end within"),
    ):
        transport.names()


def test_close_during_the_login_leaves_no_dead_session(monkeypatch, transport):
    """The next call connects afresh."""
    log_in = ParamikoConnection._logged_in

    def closed_meanwhile(self: ParamikoConnection, *arguments: object) -> paramiko.Transport:
        found = log_in(self, *arguments)
        monkeypatch.undo()
        transport.close()
        return found

    monkeypatch.setattr(ParamikoConnection, "_logged_in", closed_meanwhile)

    with pytest.raises(TransportError):
        transport.names()
    assert transport.names() == []


class Talking(session.BoundedClient):
    """A client whose server has said what it can do, and answers with ``limits``."""

    def __init__(self, limits: tuple[int, ...]) -> None:
        self.extensions = [session.LIMITS]
        self.request_bytes = session.SMALL_REQUEST_BYTES
        self.limits = limits

    def _request(self, *_: object) -> tuple[int, paramiko.Message]:
        message = paramiko.Message()
        for limit in self.limits:
            message.add_int64(limit)
        message.rewind()
        return paramiko.sftp.CMD_EXTENDED_REPLY, message


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1 << 18, 261_120, 261_120, 0), 261_120),
        ((1 << 18, 100_000, 50_000, 0), 50_000),
        ((0, 0, 0, 0), 261_120),
        ((1 << 63, 1 << 63, 1 << 63, 1), 261_120),
        ((1, 1, 1, 1), 32_768),
        ((), 261_120),
    ],
)
def test_requests_are_as_large_as_the_server_wants(limits, expected):
    """Between what every server takes and what we ever ask for, whatever it says; nothing means no limit."""
    client = Talking(limits)

    client.ask_limits()

    assert client.request_bytes == expected
