"""Embedded read-only SFTP server: one outbox, the federation's keys, nothing else.

Runs as a process of its own: ``python -m peer_sync.server SITE_TOML`` prints
``listening on HOST:PORT`` and ends when its standard input closes.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import paramiko
from paramiko import common, sftp

from peer_sync import identity, served
from peer_sync.errors import ConfigError
from peer_sync.reception import Limits, Reception, main
from peer_sync.sftp import CIPHERS, DIGESTS, SERVER_ID
from peer_sync.site import Site

log = logging.getLogger(__name__)

KEX = ("mlkem768x25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384")
READING = (sftp.CMD_OPENDIR, sftp.CMD_READDIR, sftp.CMD_OPEN, sftp.CMD_READ, sftp.CMD_CLOSE)
LOOKING = (sftp.CMD_STAT, sftp.CMD_LSTAT, sftp.CMD_FSTAT, sftp.CMD_REALPATH)
SFTP_VERSION = 3
MAX_PACKET_BYTES = 64 * 1024
MAX_HANDLES = 16
MAX_CHANNELS = 4
ROOT = ("/", ".", "")
FILE_MODE = stat.S_IFREG | 0o444
FOLDER_MODE = stat.S_IFDIR | 0o555


class _Guest(paramiko.ServerInterface):
    """One connection: lets in a federation's key and nothing but SFTP."""

    def __init__(self, transport: paramiko.Transport, keys: dict[str, str], address: str) -> None:
        self.transport = transport
        self.keys = keys
        self.address = address
        self.started = self.last_seen = time.monotonic()
        self.peer = ""
        self.channels = 0

    @property
    def known(self) -> bool:
        """Whether it has logged in."""
        return bool(self.transport.is_authenticated())

    @property
    def active(self) -> bool:
        """Whether it is still there."""
        return bool(self.transport.is_active())

    def close(self) -> None:
        """End it."""
        self.transport.close()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.peer = self.keys.get(f"{key.get_name()} {key.get_base64()}", "")
        log.info("%s: key of %s", self.address, self.peer or "nobody known")
        return common.AUTH_SUCCESSFUL if self.peer else common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind != "session":
            return common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        self.channels += 1
        if self.channels > MAX_CHANNELS:
            return common.OPEN_FAILED_RESOURCE_SHORTAGE
        return common.OPEN_SUCCEEDED


class _Handle(paramiko.SFTPHandle):
    """One open file."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes:
        return served.read_at(self.descriptor, offset, length)

    def stat(self) -> paramiko.SFTPAttributes:
        return _attributes(served.open_facts(self.descriptor))


class _Files(paramiko.SFTPServerInterface):
    """The outbox as one flat folder."""

    def __init__(self, guest: _Guest, folder: served.ServedFolder) -> None:
        super().__init__(guest)
        self.folder = folder

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        if path not in ROOT:
            return sftp.SFTP_NO_SUCH_FILE
        return [_attributes(facts) for facts in self.folder.files()]

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        if path in ROOT:
            return _attributes(served.FileFacts("", 0, 0), FOLDER_MODE)
        try:
            return _attributes(self.folder.facts(path))
        except OSError as error:
            return _status(error)

    lstat = stat

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> _Handle | int:
        if flags != os.O_RDONLY:
            return sftp.SFTP_PERMISSION_DENIED
        try:
            return _Handle(self.folder.open(path))
        except OSError as error:
            return _status(error)

    def canonicalize(self, path: str) -> str:
        return "/" if path in ROOT else f"/{path.removeprefix('/')}"


PROTOCOL: Any = paramiko.SFTPServer


class _Session(PROTOCOL):  # type: ignore[misc]
    """The protocol with everything cut off that a reader does not need."""

    def __init__(self, channel: paramiko.Channel, name: str, guest: _Guest, *rest: object) -> None:
        super().__init__(channel, name, guest, *rest)
        self.guest = guest

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

    def _process(self, kind: int, number: int, message: paramiko.Message) -> None:
        self.guest.last_seen = time.monotonic()
        if kind in READING + LOOKING:
            super()._process(kind, number, message)
        elif kind == sftp.CMD_EXTENDED:
            self._send_status(number, sftp.SFTP_OP_UNSUPPORTED)
        else:
            log.warning("%s: peer %s asked for %s: denied", self.guest.address, self.guest.peer, kind)
            self._send_status(number, sftp.SFTP_PERMISSION_DENIED)

    def _send_handle_response(self, number: int, handle: object, folder: bool = False) -> None:
        is_full = len(self.file_table) + len(self.folder_table) >= MAX_HANDLES
        if is_full and isinstance(handle, paramiko.SFTPHandle):
            handle.close()
            handle = sftp.SFTP_FAILURE
        super()._send_handle_response(number, handle, folder)


class Server:
    """Listens at once; `serve` then answers.

    Args:
        site: whose outbox; its ``listen`` and ``host_key`` are set.
        limits: bounds for strangers.

    Raises:
        ConfigError: the port is busy, or the host key cannot be used.
    """

    def __init__(self, site: Site, limits: Limits | None = None) -> None:
        if site.listen is None or site.host_key is None:
            raise ConfigError(f"{site.path.name}: listen is missing", hint="add listen and host_key there")
        identity.load_private_key(site.host_key)
        self._host_key = paramiko.Ed25519Key(filename=str(site.host_key))
        self._keys = {
            " ".join(member.public_key.split()[:2]): member.name for member in site.federation.members
        }
        outbox = site.folder / "outbox"
        outbox.mkdir(parents=True, exist_ok=True)
        self._folder = served.ServedFolder(outbox)
        self._reception = Reception(site.listen, self._welcome, limits or Limits())
        self.address = self._reception.address
        self.stop = self._reception.stop

    def serve(self, ends: Sequence[int] = (), parent: int | None = None) -> None:
        """Answer until ``stop`` is set, a descriptor in ``ends`` closes, or process ``parent`` is gone."""
        try:
            self._reception.serve(ends, parent)
        finally:
            self._folder.close()

    def _welcome(self, sock: socket.socket, address: str) -> _Guest | None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(sock)
            options = transport.get_security_options()
            options.ciphers, options.digests = CIPHERS, DIGESTS
            options.kex = tuple(name for name in KEX if name in options.kex)
            transport.local_version = f"SSH-2.0-{SERVER_ID}"
            transport.add_server_key(self._host_key)
            transport.set_subsystem_handler("sftp", _Session, _Files, self._folder)
            guest = _Guest(transport, self._keys, address)
            transport.start_server(event=threading.Event(), server=guest)
        except (OSError, paramiko.SSHException) as error:
            log.warning("%s: %s", address, error)
            sock.close()
            return None
        return guest


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


if __name__ == "__main__":
    sys.exit(main(Server))
