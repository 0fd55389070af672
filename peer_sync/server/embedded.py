"""The server itself: what the door lets in is met with SSH."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence

import paramiko

from peer_sync import identity
from peer_sync.errors import ConfigError
from peer_sync.server import served
from peer_sync.server.answering import Files, Session
from peer_sync.server.guest import Guest
from peer_sync.server.reception import Limits, Reception
from peer_sync.site import Site
from peer_sync.ssh import SERVER_ID, BoundedTransport

log = logging.getLogger(__name__)

KEX = ("mlkem768x25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384")


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

    def _welcome(self, sock: socket.socket, address: str) -> Guest | None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = BoundedTransport(sock)
            options = transport.get_security_options()
            options.kex = tuple(name for name in KEX if name in options.kex)
            transport.local_version = f"SSH-2.0-{SERVER_ID}"
            transport.add_server_key(self._host_key)
            transport.set_subsystem_handler("sftp", Session, Files, self._folder)
            guest = Guest(transport, self._keys, address)
            transport.start_server(event=threading.Event(), server=guest)
        except (OSError, RuntimeError, MemoryError, paramiko.SSHException) as error:
            log.warning("%s: %s", address, error)
            sock.close()
            return None
        return guest
