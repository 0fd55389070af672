"""The way to a peer over SFTP: pinned host key, one key of our own, bounded memory and time."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paramiko

from peer_sync import identity
from peer_sync.address import Patience, dial, parse_address
from peer_sync.errors import NotFoundError, PeerSyncError, RejectedError, TransportError, quoted
from peer_sync.ssh import SERVER_ID, BoundedTransport
from peer_sync.storage import part_path
from peer_sync.transport import check_name, too_large
from peer_sync.transport.session import BoundedClient, FileRequests
from peer_sync.transport.window import read_all, write_all

HOST_KEY_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
LARGE_REQUEST_BYTES = 255 * 1024
SMALL_REQUEST_BYTES = 32 * 1024
WINDOW_BYTES = 8 << 20
MAX_KEY_CHARACTERS = 200


class SftpTransport:
    """A peer's folder on an SFTP server; connects when first used.

    Args:
        address: ``sftp://[user@]host:port[/path]``.
        host_key: the server's public key; any other key is refused.
        private_key: our key file; no agent, no other key and no password is tried.
        user: login name when the address has none.
        patience: time limits.
    """

    def __init__(
        self,
        address: str,
        host_key: str,
        private_key: Path,
        user: str,
        patience: Patience | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.user = self.address.user or user
        self.folder = self.address.folder
        self.host_key = host_key
        self.private_key = private_key
        self.patience = patience or Patience()
        self._transport: BoundedTransport | None = None
        self._client: BoundedClient | None = None
        self._guard = threading.Lock()

    def names(self) -> list[str]:
        """See `Transport`."""
        with self._talking("list the outbox", 0) as client:
            return client.listing(self.folder or ".")

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """See `Transport`."""
        path = self._path(name)
        with self._talking(f"read {name}", max_bytes) as client, client.open(path, "rb") as remote:
            size = client.open_size(remote)
            if size is None or size > max_bytes:
                raise too_large(name, max_bytes)
            with _writing(target) as write:
                read_all(FileRequests(client, remote), size, self._request_bytes(), write)
        return size

    def put(self, source: Path, name: str) -> None:
        """See `Transport`."""
        path = self._path(name)
        part = self._path(part_path(Path()).name, checked=False)
        size = source.stat().st_size
        with source.open("rb") as file, self._talking(f"write {name}", size) as client:
            with client.open(part, "wx") as remote:
                write_all(FileRequests(client, remote), size, self._request_bytes(), _our_disk()(file.read))
            found = client.size_of(part)
            if found != size:
                raise TransportError(f"cannot write {name}: expected {size} bytes there, found {found}")
            self._rename(client, part, path)

    def close(self) -> None:
        """See `Transport`."""
        with self._guard:
            transport, self._transport, self._client = self._transport, None, None
        if transport is not None:
            transport.close()

    def _path(self, name: str, checked: bool = True) -> str:
        plain = check_name(name) if checked else name
        return f"{self.folder}/{plain}" if self.folder else plain

    @staticmethod
    def _rename(client: BoundedClient, part: str, path: str) -> None:
        try:
            client.posix_rename(part, path)
        except OSError:
            with suppress(FileNotFoundError):
                client.remove(path)
            client.rename(part, path)

    def _request_bytes(self) -> int:
        """Only servers known to take large requests get them."""
        transport = self._transport
        version = transport.remote_version if transport else ""
        known = "OpenSSH" in version or SERVER_ID in version
        return LARGE_REQUEST_BYTES if known else SMALL_REQUEST_BYTES

    @contextmanager
    def _talking(self, doing: str, size_bytes: int) -> Iterator[BoundedClient]:
        """One call: connected, under a deadline, foreign errors translated; an error cuts."""
        seconds = self.patience.call_seconds(size_bytes)
        late = threading.Event()
        watchdog = threading.Timer(seconds, self._cut, [late])
        watchdog.daemon = True
        watchdog.start()
        finished = False
        try:
            yield self._client or self._connect(late)
            finished = True
        except PeerSyncError:
            raise
        except _LocalError as error:
            raise error.cause from error.cause.__cause__
        # The library raises here whatever its own thread met: errors of its cryptography too.
        except Exception as error:
            raise self._translated(error, doing, seconds if late.is_set() else None) from error
        finally:
            watchdog.cancel()
            if not finished:
                self.close()

    def _cut(self, late: threading.Event) -> None:
        late.set()
        transport = self._transport
        if transport is not None:
            transport.close()

    def _connect(self, late: threading.Event) -> BoundedClient:
        """Connect and log in, unless the deadline passes or `close` is called meanwhile."""
        sock = dial(self.address, self.patience)
        transport = BoundedTransport(sock, default_window_size=WINDOW_BYTES)
        self._transport = transport
        if late.is_set():
            raise paramiko.SSHException("no connection in time")
        self._log_in(transport)
        client: BoundedClient | None = BoundedClient.from_transport(transport, window_size=WINDOW_BYTES)
        if client is None:
            raise paramiko.SSHException("no SFTP session")
        client.get_channel().settimeout(self.patience.silence_seconds)
        with self._guard:
            if late.is_set() or self._transport is not transport:
                transport.close()
                raise paramiko.SSHException("the connection was closed")
            self._client = client
        return client

    def _log_in(self, transport: BoundedTransport) -> None:
        options = transport.get_security_options()
        kind = self.host_key.split()[0]
        wanted = HOST_KEY_ALGORITHMS.get(kind, (kind,))
        options.key_types = wanted + tuple(other for other in options.key_types if other not in wanted)
        seconds = self.patience.login_seconds
        transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = seconds
        transport.start_client(timeout=seconds)
        server = transport.get_remote_server_key()
        found = f"{server.get_name()} {server.get_base64()}"
        if not identity.same_key(found, self.host_key):
            raise RejectedError(
                "host-key",
                f"host key of {self.address}: expected {self.host_key}, found {found[:MAX_KEY_CHARACTERS]}",
                hint="ask the peer by another way whether its server changed; nothing was sent to it",
            )
        identity.load_private_key(self.private_key)
        transport.auth_publickey(self.user, paramiko.Ed25519Key(filename=str(self.private_key)))
        transport.set_keepalive(max(1, int(self.patience.silence_seconds)))

    def _translated(self, error: BaseException, doing: str, late_seconds: float | None) -> TransportError:
        place = self.address
        if late_seconds is not None:
            return TransportError(
                f"cannot {doing} at {place}: expected an end within {late_seconds:.0f} s, found none",
                hint="the way to the peer is slow or stuck",
            )
        if isinstance(error, OSError) and error.errno == errno.ENOENT:
            return NotFoundError(f"cannot {doing} at {place}: there is none", hint="not published, or gone")
        if isinstance(error, paramiko.AuthenticationException):
            return TransportError(
                f"cannot {doing} at {place}: expected a login as {self.user!r}, found it refused",
                hint="the peer's server does not know this site's key",
            )
        known = isinstance(error, OSError) and error.errno
        reason = os.strerror(known) if known else quoted(str(error) or type(error).__name__)
        return TransportError(
            f"cannot {doing} at {place}: expected an answer, found {reason}",
            hint="is the peer's server running, and does the network let us through?",
        )


class _LocalError(Exception):
    """Our own disk failed in the middle of a call: not the peer's fault."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def _our_disk() -> Iterator[None]:
    """Work on our own disk; `SftpTransport` lets its errors through as they are."""
    try:
        yield
    except OSError as error:
        raise _LocalError(error) from error


@contextmanager
def _writing(target: Path) -> Iterator[Callable[[bytes], int]]:
    """Yield what writes into ``target``, down to the last byte."""
    with _our_disk():
        file = target.open("wb")
    try:
        yield _our_disk()(file.write)
        with _our_disk():
            file.flush()
    finally:
        with suppress(OSError):
            file.close()
