"""The server itself: what the door lets in is met with SSH."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import paramiko

from peer_sync import identity
from peer_sync.errors import ConfigError
from peer_sync.federation import Federation
from peer_sync.orders import sentence
from peer_sync.renewal import Renewal, news
from peer_sync.server import access, served
from peer_sync.server.answering import Files, Session
from peer_sync.server.guest import Guest
from peer_sync.server.reception import Limits, Reception
from peer_sync.site import Site
from peer_sync.ssh import SERVER_ID, BoundedTransport

LOOK_SECONDS = 0.5
WINDOW_BYTES = 256 * 1024
KEX = ("mlkem768x25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384")


def place(site: Site) -> tuple[tuple[str, int], Path]:
    """Host and port to listen on, and the host key's file. Raises `ConfigError` without ``listen``."""
    if site.listen is None or site.host_key is None:
        raise ConfigError(
            f"{site.path}: expected listen and host_key for a server of the outbox, found none",
            hint='add for example listen = "0.0.0.0:2222", or let another SFTP server serve the outbox',
        )
    return site.listen, site.host_key


class Server:
    """Listens at once; `serve` then answers, by the federation.toml that is there now, within seconds.

    Args:
        site: whose outbox; its ``listen`` and ``host_key`` are set.
        limits: bounds for strangers.

    Raises:
        ConfigError: the port is busy, or the host key cannot be used.
    """

    def __init__(self, site: Site, limits: Limits | None = None) -> None:
        listen, host_key = place(site)
        self._keys: dict[str, str] = {}
        self._let_in(site.federation)
        self._host_key = _host_key(host_key)
        self._renewal = Renewal(site)
        self._next_look = 0.0
        outbox = site.folder / "outbox"
        outbox.mkdir(parents=True, exist_ok=True)
        self._folder = served.ServedFolder(outbox)
        self._reception = Reception(listen, self._welcome, limits or Limits())
        self.address = self._reception.address
        self.stop = self._reception.stop

    def serve(self, ends: Sequence[int] = (), parent: int | None = None) -> None:
        """Answer until ``stop`` is set, a descriptor in ``ends`` closes, or process ``parent`` is gone."""
        self._reception.serve(ends, parent, self._look)

    def _look(self) -> None:
        """Take a federation.toml that was changed, for who may come in; at once for who is here, too."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        before = self._renewal.site.federation
        try:
            site = self._renewal.look()
            if site is not None:
                self._let_in(site.federation)
                access.tell(logging.INFO, news(before, site.federation))
                self._host_key = _host_key(place(site)[1])
        except ConfigError as error:
            access.tell(logging.WARNING, sentence(error))

    def _let_in(self, federation: Federation) -> None:
        """These sites' keys and no others; guests share the mapping, and who stays is always in it."""
        keys = {" ".join(member.public_key.split()[:2]): member.name for member in federation.members}
        for gone in self._keys.keys() - keys.keys():
            del self._keys[gone]
        self._keys.update(keys)

    def _welcome(self, sock: socket.socket, address: str) -> Guest | None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = BoundedTransport(sock, default_window_size=WINDOW_BYTES)
            options = transport.get_security_options()
            options.kex = tuple(name for name in KEX if name in options.kex)
            transport.local_version = f"SSH-2.0-{SERVER_ID}"
            transport.add_server_key(self._host_key)
            transport.set_subsystem_handler("sftp", Session, Files, self._folder)
            guest = Guest(transport, self._keys, address)
            transport.start_server(event=threading.Event(), server=guest)
        except (OSError, RuntimeError, MemoryError, paramiko.SSHException) as error:
            access.note(logging.WARNING, address, "", "turned away: %s", error)
            sock.close()
            return None
        return guest


def _host_key(path: Path) -> paramiko.Ed25519Key:
    identity.load_private_key(path)
    return paramiko.Ed25519Key(filename=str(path))
