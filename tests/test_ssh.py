"""What both ends of a connection refuse to take in. A stranger needs no key for most of this."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

import paramiko
import pytest
from courier_kit import running_server
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_EXTENDED_DATA, cMSG_CHANNEL_REQUEST, cMSG_EXT_INFO

from peer_sync.names import manifest_name
from peer_sync.server.answering import MAX_HANDLES
from peer_sync.server.embedded import Server
from peer_sync.server.reception import Limits
from peer_sync.ssh import BoundedTransport

NAME = manifest_name(1)


def message(kind: bytes, *items: int | bytes | str | bool) -> paramiko.Message:
    """An SSH message."""
    made = paramiko.Message()
    made.add_byte(kind)
    for item in items:
        if isinstance(item, bool):
            made.add_boolean(item)
        elif isinstance(item, int):
            made.add_int(item)
        else:
            made.add_string(item)
    return made


def wait_for(look, seconds: float = 60) -> bool:
    """Whether ``look`` gets true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def south(served_sites, server):
    """The served site, with one file in its outbox."""
    (served_sites["south"].folder / "outbox" / NAME).write_bytes(b"x" * 1000)
    return served_sites["south"]


@pytest.fixture
def connect(served_sites, south):
    """Makes raw connections to south's server, logged in as north."""
    made = []

    def connect(log_in: bool = True) -> paramiko.Transport:
        transport = paramiko.Transport(socket.create_connection(south.listen, timeout=60))
        made.append(transport)
        transport.start_client(timeout=60)
        if log_in:
            key = paramiko.Ed25519Key(filename=str(served_sites["north"].private_key))
            transport.auth_publickey("north", key)
        return transport

    yield connect
    for transport in made:
        transport.close()


def test_an_extension_message_costs_nothing(connect):
    """A count of four billion is not counted out; the session goes on."""
    transport = connect(log_in=False)

    transport._send_message(message(cMSG_EXT_INFO, 0xFFFFFFFF))

    with pytest.raises(paramiko.BadAuthenticationType):
        transport.auth_none("north")


def test_a_long_packet_is_refused_before_login(south):
    """Two gibibytes claimed: the connection ends at the claim."""
    with socket.create_connection(south.listen, timeout=60) as sock:
        sock.sendall(b"SSH-2.0-x\r\n" + struct.pack(">I", (1 << 31) - 4) + b"\x04" * 60)

        assert wait_for(lambda: hung_up(sock))


def test_an_endless_greeting_is_refused(south):
    """Sixteen kibibytes without a line feed are enough."""
    with socket.create_connection(south.listen, timeout=60) as sock:
        with suppress(OSError):  # the server may have hung up before the last byte
            sock.sendall(b"x" * 20_000)

        assert wait_for(lambda: hung_up(sock))


def hung_up(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    sock.settimeout(0.1)
    try:
        return sock.recv(4096) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_data_over_the_window_ends_the_connection(connect):
    """On a channel that nobody reads; the window is 256 KiB."""
    transport = connect()
    channel = transport.open_session()

    with suppress(EOFError):
        for _ in range(10):
            transport._send_message(message(cMSG_CHANNEL_DATA, channel.remote_chanid, b"x" * 32_000))

    assert wait_for(lambda: not transport.is_active())


def test_extended_data_is_dropped():
    """A flood on the second stream fills nothing, at a server or at a client."""
    one, other = socket.socketpair()
    transport, channel = BoundedTransport(one), paramiko.Channel(1)
    channel._set_transport(transport)
    handler = transport._channel_handler_table[ord(cMSG_CHANNEL_EXTENDED_DATA)]

    handler(channel, paramiko.Message(message(b"", 1, b"x" * 32_000).asbytes()))

    assert len(channel.in_stderr_buffer) == len(channel.in_buffer) == 0
    transport.close()
    other.close()


def test_a_channel_has_one_session(connect):
    """Each would be a thread."""
    transport = connect()
    channel = transport.open_session()
    before = threading.active_count()

    for _ in range(50):
        request = message(cMSG_CHANNEL_REQUEST, channel.remote_chanid, "subsystem", False, "sftp")
        transport._send_message(request)
    transport.open_session()

    assert threading.active_count() <= before + 1


def test_handles_count_on_all_channels_together(connect):
    """Sixteen for a connection, and a closed one makes room."""
    transport = connect()
    clients = [paramiko.SFTPClient.from_transport(transport) for _ in range(2)]
    files = [clients[0].open(NAME) for _ in range(MAX_HANDLES)]

    with pytest.raises(OSError):
        clients[1].open(NAME)
    files[0].close()
    assert clients[1].open(NAME).read(1) == b"x"


def test_a_key_is_named_in_the_log_after_it_was_proven(connect, served_sites, caplog):
    """Showing somebody's public key is not a login."""
    caplog.set_level("INFO", logger="peer_sync")
    transport = connect(log_in=False)
    known = served_sites["north"].member.public_key.split()
    transport.auth_handler = paramiko.auth_handler.AuthHandler(transport)
    transport._send_message(message(b"\x05", "ssh-userauth"))
    shown = message(b"\x32", "north", "ssh-connection", "publickey", False, known[0])
    shown.add_string(paramiko.Ed25519Key(filename=str(served_sites["north"].private_key)).asbytes())
    transport._send_message(shown)
    time.sleep(0.3)
    assert "north: logged in" not in caplog.text

    connect()

    assert wait_for(lambda: "north: logged in" in caplog.text)


def test_a_peer_has_few_connections(served_sites):
    """The oldest of the same key makes room, so that others behind the address come in."""
    site, key = served_sites["south"], str(served_sites["north"].private_key)
    with running_server(Server(site, Limits(per_peer=2))):
        made = []
        for _ in range(4):
            transport = paramiko.Transport(socket.create_connection(site.listen, timeout=60))
            transport.start_client(timeout=60)
            transport.auth_publickey("north", paramiko.Ed25519Key(filename=key))
            made.append(transport)

        assert wait_for(lambda: [transport.is_active() for transport in made] == [False, False, True, True])
        for transport in made:
            transport.close()
