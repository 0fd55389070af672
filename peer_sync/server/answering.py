"""What a guest may ask over SFTP: look and read, in one flat folder."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from typing import Any

import paramiko
from paramiko import sftp

from peer_sync.errors import quoted
from peer_sync.server import served
from peer_sync.server.guest import Guest
from peer_sync.ssh import send_all

OPENING = (sftp.CMD_OPENDIR, sftp.CMD_OPEN)
READING = (sftp.CMD_OPENDIR, sftp.CMD_READDIR, sftp.CMD_OPEN, sftp.CMD_READ, sftp.CMD_CLOSE)
LOOKING = (sftp.CMD_STAT, sftp.CMD_LSTAT, sftp.CMD_FSTAT, sftp.CMD_REALPATH)
SFTP_VERSION = 3
MAX_PACKET_BYTES = 64 * 1024
MAX_HANDLES = 16
ROOT = ("/", ".", "")
FILE_MODE = stat.S_IFREG | 0o444
FOLDER_MODE = stat.S_IFDIR | 0o555


class _Handle(paramiko.SFTPHandle):
    """One open file."""

    def __init__(self, descriptor: int, name: str, guest: Guest) -> None:
        super().__init__()
        self.descriptor = descriptor
        self._name = name
        self._guest = guest
        self._opened = time.monotonic()
        self._sent_bytes = 0
        guest.note(logging.DEBUG, "opened %s", name)

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            seconds = time.monotonic() - self._opened
            self._guest.note(
                logging.INFO, "read %s: %d bytes in %.2f s", self._name, self._sent_bytes, seconds
            )

    def read(self, offset: int, length: int) -> bytes:
        data = served.read_at(self.descriptor, offset, length)
        self._sent_bytes += len(data)
        return data

    def stat(self) -> paramiko.SFTPAttributes:
        return _attributes(served.open_facts(self.descriptor))


class Files(paramiko.SFTPServerInterface):
    """The outbox as one flat folder."""

    def __init__(self, guest: Guest, folder: served.ServedFolder) -> None:
        super().__init__(guest)
        self.guest = guest
        self.folder = folder

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        """Names and sizes of the published files."""
        if path not in ROOT:
            return sftp.SFTP_NO_SUCH_FILE
        try:
            return [_attributes(facts) for facts in self.folder.files()]
        except OSError as error:
            return _status(error)

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        """Facts about one file, or about the folder, whose time is our clock's."""
        if path in ROOT:
            return _attributes(served.FileFacts("", 0, int(time.time())), FOLDER_MODE)
        try:
            return _attributes(self.folder.facts(path))
        except OSError as error:
            return _status(error)

    lstat = stat

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> _Handle | int:
        """To read, nothing else."""
        if flags != os.O_RDONLY:
            self.guest.note(logging.WARNING, "denied, writing: %s", quoted(path))
            return sftp.SFTP_PERMISSION_DENIED
        try:
            return _Handle(self.folder.open(path), path.removeprefix("/"), self.guest)
        except OSError as error:
            self.guest.note(
                logging.WARNING, "denied, opening %s: %s", quoted(path), error.strerror or "no such file"
            )
            return _status(error)

    def canonicalize(self, path: str) -> str:
        """There is one folder."""
        return "/" if path in ROOT else f"/{path.removeprefix('/')}"


PROTOCOL: Any = paramiko.SFTPServer


class Session(PROTOCOL):  # type: ignore[misc]
    """The protocol with everything cut off that a reader does not need."""

    def __init__(self, channel: paramiko.Channel, name: str, guest: Guest, *rest: object) -> None:
        super().__init__(channel, name, guest, *rest)
        self.guest = guest
        guest.sessions[channel.get_id()] = self.handles

    def handles(self) -> int:
        """How many files and folders are open here."""
        return len(self.file_table) + len(self.folder_table)

    def finish_subsystem(self) -> None:
        """Close what is open, even where the connection is gone."""
        for handle in self.file_table.values():
            handle.close()
        self.file_table.clear()
        self.folder_table.clear()
        super().finish_subsystem()

    def _send_server_version(self) -> int:
        kind, _ = self._read_packet()
        if kind != sftp.CMD_INIT:
            raise sftp.SFTPError("expected a start of SFTP")
        message = paramiko.Message()
        message.add_int(SFTP_VERSION)
        self._send_packet(sftp.CMD_VERSION, message)
        return SFTP_VERSION

    def _read_all(self, length: int) -> bytes:
        if length > MAX_PACKET_BYTES:
            raise EOFError
        return bytes(super()._read_all(length))

    def _write_all(self, data: bytes) -> None:
        send_all(self.sock, data)

    def _process(self, kind: int, number: int, message: paramiko.Message) -> None:
        self.guest.last_seen = time.monotonic()
        if kind in OPENING:
            self._open(kind, number, message)
        elif kind in READING + LOOKING:
            super()._process(kind, number, message)
        elif kind == sftp.CMD_EXTENDED:
            self._send_status(number, sftp.SFTP_OP_UNSUPPORTED)
        else:
            self.guest.note(logging.WARNING, "denied, %s", sftp.CMD_NAMES.get(kind, kind))
            self._send_status(number, sftp.SFTP_PERMISSION_DENIED)

    def _open(self, kind: int, number: int, message: paramiko.Message) -> None:
        """One at a time on all channels, so that nobody gets more handles than there are."""
        with self.guest.opening:
            if self.guest.handles() < MAX_HANDLES:
                super()._process(kind, number, message)
                return
        self.guest.note(logging.WARNING, "denied, more than %d open files", MAX_HANDLES)
        self._send_status(number, sftp.SFTP_FAILURE)


def _attributes(facts: served.FileFacts, mode: int = FILE_MODE) -> paramiko.SFTPAttributes:
    attributes = paramiko.SFTPAttributes()
    attributes.filename = facts.name
    attributes.st_size = facts.size_bytes
    attributes.st_mode = mode
    attributes.st_atime = attributes.st_mtime = facts.modified
    return attributes


def _status(error: OSError) -> int:
    if isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP:
        return sftp.SFTP_NO_SUCH_FILE
    return sftp.SFTP_FAILURE
