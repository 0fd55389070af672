"""SSH as both our client and our server speak it: what the library leaves open is bounded here."""

from __future__ import annotations

import logging
import socket
from typing import Any, TypeAlias

import paramiko
from paramiko import common
from paramiko.packet import Packetizer

SERVER_ID = "peer_sync_1"
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
DIGESTS = ("hmac-sha2-256", "hmac-sha2-512")
MAX_PACKET_BYTES = 257 * 1024
MAX_BANNER_BYTES = 16 * 1024
LOG_CHANNEL = "peer_sync.ssh"

# The library logs what strangers send; without a handler it would end up on standard error.
logging.getLogger(LOG_CHANNEL).addHandler(logging.NullHandler())
logging.getLogger(LOG_CHANNEL).setLevel(logging.ERROR)

CHANNEL: TypeAlias = Any
PACKETIZER: Any = Packetizer
TRANSPORT: Any = paramiko.Transport


class BoundedPacketizer(PACKETIZER):  # type: ignore[misc]
    """Refuses a packet, or a greeting, that is longer than any of ours, before reading it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
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
