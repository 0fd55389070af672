"""SSH as both our client and our server speak it: what the library leaves open is bounded here."""

from __future__ import annotations

import logging
import socket
from collections import deque
from typing import Any, TypeAlias

import paramiko
from paramiko import common
from paramiko.buffered_pipe import BufferedPipe
from paramiko.packet import Packetizer
from paramiko.transport import ChannelMap

from peer_sync.identity import SiteKey
from peer_sync.openssh import KEY_TYPE, blob_of

SERVER_ID = "peer_sync_1"
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
DIGESTS = ("hmac-sha2-256", "hmac-sha2-512")
MAX_PACKET_BYTES = 257 * 1024
MAX_BANNER_BYTES = 16 * 1024
SMALL_CHUNK_BYTES = 4 * 1024
READ_AHEAD_BYTES = 64 * 1024
LOG_CHANNEL = "peer_sync.ssh"

# The library logs what strangers send; without a handler it would end up on standard error.
logging.getLogger(LOG_CHANNEL).addHandler(logging.NullHandler())
logging.getLogger(LOG_CHANNEL).setLevel(logging.ERROR)

CHANNEL: TypeAlias = Any
CHANNELS: Any = ChannelMap
KEY: Any = paramiko.PKey
PACKETIZER: Any = Packetizer
PIPE: Any = BufferedPipe
TRANSPORT: Any = paramiko.Transport


class LoginKey(KEY):  # type: ignore[misc]
    """A site's key as the library wants one for ``auth_publickey``; the secret half stays where it is."""

    def __init__(self, key: SiteKey) -> None:
        self._key = key

    def get_name(self) -> str:
        """The key's type."""
        return KEY_TYPE.decode()

    def asbytes(self) -> bytes:
        """The public half."""
        return blob_of(self._key.line)

    def can_sign(self) -> bool:
        """Whether there is a secret half."""
        return True

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message:
        """Sign a login. Raises `TransportError` when ssh-agent does not."""
        message = paramiko.Message()
        message.add_string(KEY_TYPE)
        message.add_string(self._key.sign(data))
        return message


class ReadAhead:
    """A socket, or a channel, that is asked for many small pieces at once: every question has its price.

    Args:
        sock: the socket itself.
    """

    def __init__(self, sock: CHANNEL) -> None:
        self.send = sock.send
        self.close = sock.close
        self._sock = sock
        self._rest = memoryview(b"")

    def recv(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end. Raises OSError."""
        if not self._rest:
            self._rest = memoryview(self._sock.recv(READ_AHEAD_BYTES))
        found, self._rest = self._rest[:count], self._rest[count:]
        return found.tobytes()


class BoundedPacketizer(PACKETIZER):  # type: ignore[misc]
    """Refuses a packet, or a greeting, that is longer than any of ours, before reading it."""

    def __init__(self, sock: CHANNEL) -> None:
        super().__init__(ReadAhead(sock))
        self._banner_bytes = 0

    def read_all(self, count: int, check_rekey: bool = False) -> bytes:
        """Read exactly ``count`` bytes. Raises SSHException over the limit."""
        if not 0 <= count <= MAX_PACKET_BYTES:
            raise paramiko.SSHException(f"expected a packet of at most {MAX_PACKET_BYTES} bytes")
        return bytes(super().read_all(count, check_rekey))

    def _read_timeout(self, timeout: float) -> bytes:
        data = bytes(super()._read_timeout(timeout))
        self._banner_bytes += len(data)
        if self._banner_bytes > MAX_BANNER_BYTES:
            raise paramiko.SSHException(f"expected a greeting of at most {MAX_BANNER_BYTES} bytes")
        return data


class Chunks:
    """Bytes in the pieces they came in: taking from the front moves nothing.

    Small pieces are put together, so that a stranger's single bytes cost little more than a byte each.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._taken = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        """Put ``data`` behind the rest."""
        self._size += len(data)
        last = self._pieces[-1] if self._pieces else b""
        if isinstance(last, bytearray) and len(last) + len(data) <= SMALL_CHUNK_BYTES:
            last += data
        elif data:
            self._pieces.append(bytearray(data) if len(data) < SMALL_CHUNK_BYTES else data)

    def take(self, count: int) -> bytes:
        """Remove and return the first ``count`` bytes, or all."""
        missing = min(count, self._size)
        self._size -= missing
        found = []
        while missing:
            piece = self._pieces[0]
            part = piece[self._taken : self._taken + missing]
            found.append(part)
            missing -= len(part)
            self._taken += len(part)
            if self._taken == len(piece):
                self._pieces.popleft()
                self._taken = 0
        return b"".join(found)

    def __delitem__(self, which: slice) -> None:
        """The library deletes what it has read; `take` has done it."""


class ChunkPipe(PIPE):  # type: ignore[misc]
    """What a channel has received and nobody has read yet.

    The library's own moves all that is left at every read, up to the whole window.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffer = Chunks()

    def _buffer_frombytes(self, data: bytes) -> None:
        self._buffer.append(data)

    def _buffer_tobytes(self, limit: int | None = None) -> bytes:
        return self._buffer.take(len(self._buffer) if limit is None else limit)


class ChunkedChannels(CHANNELS):  # type: ignore[misc]
    """Gives every channel the faster pipe before anything can arrive in it."""

    def put(self, number: int, channel: CHANNEL) -> None:
        """Note a channel that is about to be opened."""
        channel.in_buffer = ChunkPipe()
        super().put(number, channel)


def send_all(channel: CHANNEL, data: bytes) -> None:
    """Send ``data`` through a channel or socket, without copying the rest each time. Raises EOFError."""
    rest = memoryview(data)
    while rest:
        sent = channel.send(rest)
        if sent <= 0:
            raise EOFError("the connection was closed")
        rest = rest[sent:]


def _feed(channel: CHANNEL, message: paramiko.Message) -> None:
    """Take data in, never more than the window that the other side was given."""
    data = message.get_binary()
    if len(channel.in_buffer) + len(data) > channel.in_window_size:
        raise paramiko.SSHException("expected no more data than fits the window")
    channel.in_buffer.feed(data)


def _drop(channel: CHANNEL, message: paramiko.Message) -> None:
    """SFTP has no use for a second stream."""


class BoundedTransport(TRANSPORT):  # type: ignore[misc]
    """One SSH connection, for client and server, on which a stranger costs little.

    Packets are at most 257 KiB, data stays within the window, extension messages and
    extended data are ignored, and only the strong ciphers and MACs are offered.
    """

    _channel_handler_table = {  # noqa: RUF012 - the library's own kind of table
        **TRANSPORT._channel_handler_table,
        common.MSG_CHANNEL_DATA: _feed,
        common.MSG_CHANNEL_EXTENDED_DATA: _drop,
    }

    def __init__(self, sock: socket.socket, **options: object) -> None:
        super().__init__(sock, packetizer_class=BoundedPacketizer, **options)
        self._channels = ChunkedChannels()
        self.set_log_channel(LOG_CHANNEL)
        security = self.get_security_options()
        security.ciphers, security.digests = CIPHERS, DIGESTS

    def close(self) -> None:
        """End the connection, started or not."""
        super().close()
        self.sock.close()

    def _parse_ext_info(self, message: paramiko.Message) -> None:
        """Nothing that it could tell is used; its count may claim four billion entries."""

    def _auth_trigger(self) -> None:
        """Tell our server that a key was not only shown but proven."""
        super()._auth_trigger()
        logged_in = getattr(self.server_object, "logged_in", None)
        if logged_in is not None:
            logged_in()
