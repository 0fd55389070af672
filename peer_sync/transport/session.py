"""An SFTP session with a server that may be hostile: every answer is bounded."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paramiko
from paramiko import sftp
from paramiko.sftp import SFTPError, int64

from peer_sync.errors import TransportError
from peer_sync.ssh import send_all
from peer_sync.transport import MAX_NAMES

SFTP_VERSION = 3
MAX_ANSWER_BYTES = 261 * 1024
MAX_EXTENDED = 16
MAX_EXTENSIONS = 64
LARGE_REQUEST_BYTES = 255 * 1024
SMALL_REQUEST_BYTES = 32 * 1024
LIMITS = b"limits@openssh.com"
POSIX_RENAME = b"posix-rename@openssh.com"
CLIENT: Any = paramiko.SFTPClient
FLAGS = paramiko.SFTPAttributes


@dataclass(frozen=True)
class RemoteFacts:
    """What a server tells about a file or folder; None is what it does not tell.

    Attributes:
        size_bytes: its size.
        modified: when it was changed, in seconds since 1970.
    """

    size_bytes: int | None
    modified: int | None


class BoundedClient(CLIENT):  # type: ignore[misc]
    """The library's client, which takes in no answer larger than the largest it asks for.

    The library's own transfers are slow, use threads that outlive an error, and call a
    shortened file a success; so this package uses a few of its private names, guarded by
    a test.

    Attributes:
        extensions: names of what the server can do beyond the standard.
        request_bytes: size of a read or write request; only servers known to take large ones get them.
    """

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - a channel, or what behaves like one
        self.extensions: list[bytes] = []
        self.request_bytes = SMALL_REQUEST_BYTES
        super().__init__(channel)

    def ask_limits(self) -> None:
        """Set ``request_bytes`` as the server wants it, if it can say so."""
        if LIMITS not in self.extensions:
            return
        kind, message = self._request(sftp.CMD_EXTENDED, LIMITS)
        if kind != sftp.CMD_EXTENDED_REPLY:
            raise SFTPError("expected limits")
        _packet, read, write = (message.get_int64() or LARGE_REQUEST_BYTES for _ in range(3))
        self.request_bytes = max(SMALL_REQUEST_BYTES, min(read, write, LARGE_REQUEST_BYTES))

    def replace(self, old: str, new: str) -> None:
        """Rename a remote file over another one, which some servers leave us to remove just before."""
        if POSIX_RENAME in self.extensions:
            self.posix_rename(old, new)
            return
        with suppress(FileNotFoundError):
            self.remove(new)
        self.rename(old, new)

    def _send_version(self) -> int:
        self._send_packet(sftp.CMD_INIT, paramiko.Message(struct.pack(">I", SFTP_VERSION)))
        kind, data = self._read_packet()
        if kind != sftp.CMD_VERSION or len(data) < 4:
            raise SFTPError("expected a start of SFTP")
        message = paramiko.Message(data)
        version = int(message.get_int())
        while message.get_remainder() and len(self.extensions) < MAX_EXTENSIONS:
            self.extensions.append(message.get_binary())
            message.get_binary()
        return version

    def _read_packet(self) -> tuple[int, bytes]:
        size, kind = struct.unpack(">IB", self._read_all(5))
        if not size:
            raise SFTPError("expected an answer, found an empty one")
        return kind, self._read_all(size - 1)

    def _read_all(self, count: int) -> bytes:
        if count > MAX_ANSWER_BYTES:
            raise SFTPError(f"expected at most {MAX_ANSWER_BYTES} bytes in an answer, found {count}")
        data = self.sock.recv(count) if count else b""
        if len(data) == count:
            return bytes(data)
        buffer = bytearray(data)
        while data and len(buffer) < count:
            data = self.sock.recv(count - len(buffer))
            buffer += data
        if len(buffer) < count:
            raise EOFError("the connection ended")
        return bytes(buffer)

    def _write_all(self, data: bytes) -> None:
        send_all(self.sock, data)

    def facts(self, path: str) -> RemoteFacts:
        """Facts about a remote file or folder."""
        return self._facts(sftp.CMD_STAT, path)

    def open_facts(self, file: paramiko.SFTPFile) -> RemoteFacts:
        """Facts about an open remote file."""
        return self._facts(sftp.CMD_FSTAT, file.handle)

    def listing(self, folder: str, wanted: re.Pattern[str]) -> list[str]:
        """The ``wanted`` names in a remote folder, sorted. Raises `TransportError` over `MAX_NAMES`."""
        kind, message = self._request(sftp.CMD_OPENDIR, folder)
        if kind != sftp.CMD_HANDLE:
            raise SFTPError("expected a handle")
        handle = message.get_binary()
        found: list[str] = []
        listed = 0
        while listed <= MAX_NAMES:
            try:
                kind, message = self._request(sftp.CMD_READDIR, handle)
            except EOFError:
                self._request(sftp.CMD_CLOSE, handle)
                return sorted(found)
            names = _names(message) if kind == sftp.CMD_NAME else []
            if not names:
                raise SFTPError("expected names")
            listed += len(names)
            found += filter(wanted.fullmatch, names)
        raise TransportError(f"cannot list {folder}: expected at most {MAX_NAMES} files, found more")

    def _facts(self, request: int, subject: object) -> RemoteFacts:
        kind, message = self._request(request, subject)
        if kind != sftp.CMD_ATTRS:
            raise SFTPError("expected attributes")
        return take_facts(message)


def take_facts(message: paramiko.Message) -> RemoteFacts:
    """Read one file's attributes. Raises SFTPError."""
    flags = message.get_int()
    size = int(message.get_int64()) if flags & FLAGS.FLAG_SIZE else None
    for flag, numbers in ((FLAGS.FLAG_UIDGID, 2), (FLAGS.FLAG_PERMISSIONS, 1)):
        message.get_bytes(4 * numbers if flags & flag else 0)
    _, modified = (message.get_int(), message.get_int()) if flags & FLAGS.FLAG_AMTIME else (None, None)
    extended = message.get_int() if flags & FLAGS.FLAG_EXTENDED else 0
    if extended > MAX_EXTENDED:
        raise SFTPError(f"expected at most {MAX_EXTENDED} extended attributes, found {extended}")
    for _ in range(2 * extended):
        message.get_binary()
    return RemoteFacts(size, modified)


def _names(message: paramiko.Message) -> list[str]:
    names = []
    for _ in range(min(message.get_int(), MAX_NAMES)):
        names.append(message.get_text())
        message.get_binary()
        take_facts(message)
    return names


class FileRequests:
    """Overlapping requests for one open file."""

    def __init__(self, client: BoundedClient, file: paramiko.SFTPFile) -> None:
        self._client = client
        self._handle = file.handle
        self._ready: dict[int, tuple[int, paramiko.Message]] = {}

    def ask_read(self, offset: int, length: int) -> int:
        """See `Requests`."""
        return int(self._client._async_request(self, sftp.CMD_READ, self._handle, int64(offset), length))

    def ask_write(self, offset: int, data: bytes) -> int:
        """See `Requests`."""
        return int(self._client._async_request(self, sftp.CMD_WRITE, self._handle, int64(offset), data))

    def answer(self, number: int) -> bytes:
        """See `Requests`."""
        while number not in self._ready:
            self._client._read_response()
        kind, message = self._ready.pop(number)
        if kind == sftp.CMD_STATUS:
            self._client._convert_status(message)
            return b""
        return bytes(message.get_binary())

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        self._ready[number] = (kind, message)
