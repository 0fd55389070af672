"""An SFTP session with a server that may be hostile: every answer is bounded."""

from __future__ import annotations

from typing import Any

import paramiko
from paramiko import sftp
from paramiko.sftp import SFTPError, int64

from peer_sync.errors import TransportError
from peer_sync.transport import MAX_NAMES, VISIBLE

MAX_ANSWER_BYTES = 261 * 1024
MAX_EXTENDED = 16
CLIENT: Any = paramiko.SFTPClient
FLAGS = paramiko.SFTPAttributes


class BoundedClient(CLIENT):  # type: ignore[misc]
    """The library's client, which takes in no answer larger than the largest it asks for.

    The library's own transfers are slow, use threads that outlive an error, and call a
    shortened file a success; so this package uses a few of its private names, guarded by
    a test.
    """

    def _read_all(self, count: int) -> bytes:
        if count > MAX_ANSWER_BYTES:
            raise SFTPError(f"expected at most {MAX_ANSWER_BYTES} bytes in an answer, found {count}")
        return bytes(super()._read_all(count))

    def size_of(self, path: str) -> int | None:
        """Size of a remote file; None when the server does not tell."""
        return self._size(sftp.CMD_STAT, path)

    def open_size(self, file: paramiko.SFTPFile) -> int | None:
        """Size of an open remote file; None when the server does not tell."""
        return self._size(sftp.CMD_FSTAT, file.handle)

    def listing(self, folder: str) -> list[str]:
        """Plain file names in a remote folder. Raises `TransportError` over `MAX_NAMES`."""
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
            found += filter(VISIBLE.fullmatch, names)
        raise TransportError(f"cannot list the outbox: expected at most {MAX_NAMES} files, found more")

    def _size(self, request: int, subject: object) -> int | None:
        kind, message = self._request(request, subject)
        if kind != sftp.CMD_ATTRS:
            raise SFTPError("expected attributes")
        return take_attributes(message)


def take_attributes(message: paramiko.Message) -> int | None:
    """Read one file's attributes; returns its size, or None. Raises SFTPError."""
    flags = message.get_int()
    size = int(message.get_int64()) if flags & FLAGS.FLAG_SIZE else None
    for flag, numbers in ((FLAGS.FLAG_UIDGID, 2), (FLAGS.FLAG_PERMISSIONS, 1), (FLAGS.FLAG_AMTIME, 2)):
        message.get_bytes(4 * numbers if flags & flag else 0)
    extended = message.get_int() if flags & FLAGS.FLAG_EXTENDED else 0
    if extended > MAX_EXTENDED:
        raise SFTPError(f"expected at most {MAX_EXTENDED} extended attributes, found {extended}")
    for _ in range(2 * extended):
        message.get_binary()
    return size


def _names(message: paramiko.Message) -> list[str]:
    names = []
    for _ in range(min(message.get_int(), MAX_NAMES)):
        names.append(message.get_text())
        message.get_binary()
        take_attributes(message)
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
