"""Connecting and logging in, through a jump host if need be: one SFTP session with a peer."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import paramiko

from peer_sync.address import dial
from peer_sync.identity import load_site_key
from peer_sync.ssh import SERVER_ID, BoundedTransport, LoginKey
from peer_sync.transport.failures import CLOSED, FORBIDDEN, HostError, at
from peer_sync.transport.hosts import Host, Way
from peer_sync.transport.session import LARGE_REQUEST_BYTES, BoundedClient

WINDOW_BYTES = 8 << 20
NOBODY = ("127.0.0.1", 0)
ANSWERS = (FileNotFoundError, PermissionError)
SOCKET = Any


class Closable(Protocol):
    """Anything that can be closed."""

    def close(self) -> None:
        """Let go of it."""


Kept = TypeVar("Kept", bound=Closable)


class Keeper:
    """What a connection is made of; closes all of it, at once and for good, from any thread."""

    def __init__(self) -> None:
        self._kept: list[Closable] = []
        self._is_closed = False
        self._lock = threading.Lock()

    def keep(self, thing: Kept) -> Kept:
        """Close ``thing`` with the rest. Raises SSHException if that has happened already."""
        with self._lock:
            if not self._is_closed:
                self._kept.append(thing)
                return thing
        thing.close()
        raise paramiko.SSHException(CLOSED)

    def close(self) -> None:
        """Close everything, what was opened first goes first: the rest then has nobody left to talk to."""
        with self._lock:
            self._is_closed = True
            kept, self._kept = self._kept, []
        for thing in kept:
            with suppress(OSError):
                thing.close()


class Tunnel:
    """A channel of one connection as the socket of another; closing it never fails.

    Args:
        channel: leads from the jump host to the peer.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.recv = channel.recv
        self.send = channel.send
        self.settimeout = channel.settimeout

    @property
    def _closed(self) -> bool:
        """The library asks for this private name of a socket."""
        return bool(self._channel.closed)

    def close(self) -> None:
        """Let go of it, also where the connection below is gone: the library would lose its thread there."""
        with suppress(EOFError, OSError, paramiko.SSHException):
            self._channel.close()


class Connection(Protocol):
    """An SFTP session with a peer."""

    def client(self) -> BoundedClient:
        """The session; connects first if need be. Raises `HostError`, `PeerSyncError` and foreign errors."""

    def explained(self, error: Exception) -> HostError:
        """Where an error of this connection comes from, and its reason. Raises `RejectedError`."""

    def close(self) -> None:
        """End it, from any thread, also while it connects."""


class ParamikoConnection:
    """A `Connection` by paramiko.

    Args:
        way: to whom, and through whom.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._keeper = Keeper()
        self._outer: BoundedTransport | None = None
        self._client: BoundedClient | None = None

    def client(self) -> BoundedClient:
        """See `Connection`."""
        if self._client is None:
            self._client = self._open(LoginKey(load_site_key(self._way.private_key, self._way.key_line)))
        return self._client

    def explained(self, error: Exception) -> HostError:
        """See `Connection`."""
        if isinstance(error, HostError):
            return error
        peer, jump = self._way.peer, self._way.jump
        if jump is None or self._outer is None or isinstance(error, ANSWERS):
            return HostError(peer, error)
        return HostError(jump if _has_ended(self._outer) else peer, error)

    def close(self) -> None:
        """See `Connection`."""
        self._keeper.close()

    def _open(self, key: LoginKey) -> BoundedClient:
        peer, jump = self._way.peer, self._way.jump
        sock: SOCKET
        if jump is None:
            with at(peer):
                sock = dial(peer.address, self._way.patience)
        else:
            with at(jump):
                self._outer = self._logged_in(dial(jump.address, self._way.patience), jump, key)
            sock = self._through(self._outer, peer, jump)
        with at(peer):
            transport = self._logged_in(sock, peer, key)
            client: BoundedClient = BoundedClient.from_transport(transport, window_size=WINDOW_BYTES)
            client.get_channel().settimeout(self._way.patience.silence_seconds)
            if "OpenSSH" in transport.remote_version or SERVER_ID in transport.remote_version:
                client.request_bytes = LARGE_REQUEST_BYTES
        return client

    def _logged_in(self, sock: SOCKET, host: Host, key: LoginKey) -> BoundedTransport:
        transport = self._keeper.keep(BoundedTransport(sock, default_window_size=WINDOW_BYTES))
        options = transport.get_security_options()
        wanted = host.algorithms()
        options.key_types = wanted + tuple(other for other in options.key_types if other not in wanted)
        seconds = self._way.patience.login_seconds
        transport.banner_timeout = transport.handshake_timeout = seconds
        transport.auth_timeout = transport.channel_timeout = seconds
        transport.start_client(timeout=seconds)
        shown = transport.get_remote_server_key()
        host.check_key(f"{shown.get_name()} {shown.get_base64()}")
        transport.auth_publickey(host.user, key)
        transport.set_keepalive(max(1, int(self._way.patience.silence_seconds)))
        return transport

    def _through(self, outer: BoundedTransport, peer: Host, jump: Host) -> Tunnel:
        """A connection from the jump host to the peer: allowed by the one, answered by the other."""
        target = (peer.address.host, peer.address.port)
        try:
            seconds = self._way.patience.connect_seconds
            return Tunnel(outer.open_channel("direct-tcpip", target, NOBODY, WINDOW_BYTES, timeout=seconds))
        except paramiko.ChannelException as error:
            raise HostError(jump if error.code == FORBIDDEN else peer, error) from error
        except Exception as error:
            raise HostError(peer if outer.is_active() else jump, error) from error


def _has_ended(transport: BoundedTransport) -> bool:
    """Whether a connection is gone; its thread may need a moment to notice."""
    transport.join(0.2)
    return not transport.is_alive()
