"""The way to a peer over SFTP: pinned host key, one key of our own, bounded memory and time."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko
from paramiko import sftp
from paramiko.sftp import SFTPError, int64

from peer_sync import identity
from peer_sync.address import Patience, dial, parse_address
from peer_sync.errors import NotFoundError, RejectedError, TransportError
from peer_sync.storage import part_path
from peer_sync.transport import MAX_NAMES, VISIBLE, check_name, too_large
from peer_sync.window import read_all, write_all

SERVER_ID = "peer_sync_1"
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
DIGESTS = ("hmac-sha2-256", "hmac-sha2-512")
HOST_KEY_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
LARGE_REQUEST_BYTES = 255 * 1024
SMALL_REQUEST_BYTES = 32 * 1024
WINDOW_BYTES = 8 << 20
ATTRIBUTES: Any = paramiko.SFTPAttributes
FOREIGN = (paramiko.SSHException, SFTPError, EOFError, OSError, struct.error, UnicodeDecodeError)


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
        self._transport: paramiko.Transport | None = None
        self._client: paramiko.SFTPClient | None = None

    def names(self) -> list[str]:
        """See `Transport`."""
        with self._talking("list the outbox", 0) as client:
            return sorted(name for name in _listing(client, self.folder or ".") if VISIBLE.fullmatch(name))

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """See `Transport`."""
        path = self._path(name)
        with self._talking(f"read {name}", max_bytes) as client, client.open(path, "rb") as remote:
            size = remote.stat().st_size
            if size is None or size > max_bytes:
                raise too_large(name, max_bytes)
            with target.open("wb") as local:
                read_all(_Requests(client, remote), size, self._request_bytes(), local.write)
        return int(size)

    def put(self, source: Path, name: str) -> None:
        """See `Transport`."""
        path = self._path(name)
        size = source.stat().st_size
        with self._talking(f"write {name}", size) as client:
            part = self._path(part_path(Path()).name, checked=False)
            with source.open("rb") as local, client.open(part, "wx") as remote:
                write_all(_Requests(client, remote), size, self._request_bytes(), local.read)
            found = client.stat(part).st_size
            if found != size:
                raise TransportError(f"cannot write {name}: expected {size} bytes there, found {found}")
            self._rename(client, part, path)

    def close(self) -> None:
        """See `Transport`."""
        transport, self._transport, self._client = self._transport, None, None
        if transport is not None:
            transport.close()

    def _path(self, name: str, checked: bool = True) -> str:
        plain = check_name(name) if checked else name
        return f"{self.folder}/{plain}" if self.folder else plain

    @staticmethod
    def _rename(client: paramiko.SFTPClient, part: str, path: str) -> None:
        try:
            client.posix_rename(part, path)
        except OSError:
            with suppress(FileNotFoundError):
                client.remove(path)
            client.rename(part, path)

    def _request_bytes(self) -> int:
        """Only servers known to take large requests get them."""
        version = self._transport.remote_version if self._transport else ""
        known = "OpenSSH" in version or SERVER_ID in version
        return LARGE_REQUEST_BYTES if known else SMALL_REQUEST_BYTES

    @contextmanager
    def _talking(self, doing: str, size_bytes: int) -> Iterator[paramiko.SFTPClient]:
        """One call: connected, under a deadline, foreign errors translated; an error cuts."""
        seconds = self.patience.call_seconds(size_bytes)
        late = threading.Event()
        watchdog = threading.Timer(seconds, self._cut, [late])
        watchdog.daemon = True
        watchdog.start()
        finished = False
        try:
            if self._client is None:
                self._client = self._connect()
            yield self._client
            finished = True
        except FOREIGN as error:
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

    def _connect(self) -> paramiko.SFTPClient:
        transport = paramiko.Transport(dial(self.address, self.patience), default_window_size=WINDOW_BYTES)
        self._transport = transport
        self._log_in(transport)
        client = paramiko.SFTPClient.from_transport(transport, window_size=WINDOW_BYTES)
        if client is None:
            raise paramiko.SSHException("no SFTP session")
        channel = client.get_channel()
        if channel is not None:
            channel.settimeout(self.patience.silence_seconds)
        return client

    def _log_in(self, transport: paramiko.Transport) -> None:
        options = transport.get_security_options()
        kind = self.host_key.split()[0]
        options.ciphers, options.digests = CIPHERS, DIGESTS
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
                f"host key of {self.address}: expected {self.host_key}, found {found}",
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
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        return TransportError(
            f"cannot {doing} at {place}: expected an answer, found {reason or type(error).__name__}",
            hint="is the peer's server running, and does the network let us through?",
        )


class _Requests:
    """Overlapping requests for one open file.

    The library's own transfers are slow, use threads that outlive an error, and call a
    shortened file a success; so this uses four of its private names, guarded by a test.
    """

    def __init__(self, client: paramiko.SFTPClient, file: paramiko.SFTPFile) -> None:
        self._client: Any = client
        self._handle = file.handle
        self._ready: dict[int, tuple[int, paramiko.Message]] = {}

    def ask_read(self, offset: int, length: int) -> int:
        return int(self._client._async_request(self, sftp.CMD_READ, self._handle, int64(offset), length))

    def ask_write(self, offset: int, data: bytes) -> int:
        return int(self._client._async_request(self, sftp.CMD_WRITE, self._handle, int64(offset), data))

    def answer(self, number: int) -> bytes:
        while number not in self._ready:
            self._client._read_response()
        kind, message = self._ready.pop(number)
        if kind == sftp.CMD_STATUS:
            self._client._convert_status(message)
            return b""
        return bytes(message.get_binary())

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        self._ready[number] = (kind, message)


def _listing(client: paramiko.SFTPClient, folder: str) -> list[str]:
    """File names as the server sends them, at most `MAX_NAMES`."""
    request: Any = getattr(client, "_request")  # noqa: B009
    kind, message = request(sftp.CMD_OPENDIR, folder)
    if kind != sftp.CMD_HANDLE:
        raise SFTPError("expected a handle")
    handle = message.get_binary()
    found: list[str] = []
    while len(found) <= MAX_NAMES:
        try:
            kind, message = request(sftp.CMD_READDIR, handle)
        except EOFError:
            request(sftp.CMD_CLOSE, handle)
            return found
        if kind != sftp.CMD_NAME:
            raise SFTPError("expected names")
        for _ in range(min(message.get_int(), MAX_NAMES)):
            found.append(message.get_text())
            message.get_text()
            ATTRIBUTES._from_msg(message)
    raise TransportError(f"cannot list the outbox: expected at most {MAX_NAMES} files, found more")
