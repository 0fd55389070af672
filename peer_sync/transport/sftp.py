"""The way to a peer over SFTP: pinned host key, one key of our own, bounded memory and time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync.address import Patience
from peer_sync.errors import PeerSyncError, TransportError
from peer_sync.names import PART_PREFIX
from peer_sync.site import Jump
from peer_sync.storage import part_path
from peer_sync.transport import VISIBLE, check_name, too_large
from peer_sync.transport.child import ChildConnection
from peer_sync.transport.connection import Connection, ParamikoConnection
from peer_sync.transport.failures import translated
from peer_sync.transport.hosts import Way, way
from peer_sync.transport.own_disk import OwnDiskError, continuing, own_disk
from peer_sync.transport.rate import Watchdog
from peer_sync.transport.session import BoundedClient, FileRequests
from peer_sync.transport.window import read_all, write_all

PART = re.compile(re.escape(PART_PREFIX) + r"[A-Za-z0-9._-]{1,64}")
CARRIERS: dict[str, Callable[[Way], Connection]] = {"paramiko": ParamikoConnection, "ssh": ChildConnection}


@dataclass(frozen=True)
class _Call:
    """One call to the peer."""

    client: BoundedClient
    watchdog: Watchdog


class SftpTransport:
    """A peer's folder on an SFTP server; connects when first used.

    Args:
        address: ``sftp://[user@]host:port[/path]``.
        host_key: the server's public key; any other key is refused.
        private_key: our key file; no other key and no password is tried.
        user: login name when an address has none.
        patience: time limits.
        key_line: our public line, for a key that only ssh-agent can use.
        carrier: ``paramiko``, or ``ssh`` for the system's own ssh as a child process.
        jump: a host to go through.

    Raises:
        ConfigError: the carrier is ``ssh``, and there is none, or it cannot take these names.
    """

    def __init__(
        self,
        address: str,
        host_key: str,
        private_key: Path,
        user: str,
        patience: Patience | None = None,
        *,
        key_line: str = "",
        carrier: str = "paramiko",
        jump: Jump | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._way = way(address, host_key, user, jump, private_key, key_line, self.patience)
        self._folder = self._way.peer.address.folder
        self._carrier = CARRIERS[carrier]
        self._connection: Connection | None = self._carrier(self._way)
        self._guard = threading.Lock()

    def names(self) -> list[str]:
        """See `Transport`."""
        with self._talking("list the outbox") as call:
            return call.client.listing(self._folder or ".", VISIBLE)

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """See `Transport`."""
        path = self._path(check_name(name))
        with self._talking(f"read {name}") as call, call.client.open(path, "rb") as remote:
            size = call.client.open_facts(remote).size_bytes
            if size is None or size > max_bytes:
                raise too_large(name, max_bytes)
            requests = FileRequests(call.client, remote)
            with continuing(target, size) as (start, write), call.watchdog.data() as moved:
                read_all(requests, start, size, call.client.request_bytes, write, moved)
        return size

    def put(self, source: Path, name: str) -> None:
        """See `Transport`."""
        path, part = self._path(check_name(name)), self._path(part_path(Path()).name)
        size = source.stat().st_size
        with source.open("rb") as file, self._talking(f"write {name}") as call:
            client, read = call.client, own_disk()(file.read)
            with client.open(part, "wx") as remote, call.watchdog.data() as moved:
                write_all(FileRequests(client, remote), size, client.request_bytes, read, moved)
            found = client.facts(part).size_bytes
            if found != size:
                raise TransportError(f"cannot write {name}: expected {size} bytes there, found {found}")
            client.replace(part, path)

    def remove(self, name: str) -> None:
        """See `Transport`."""
        path = self._path(check_name(name))
        with self._talking(f"remove {name}") as call, suppress(FileNotFoundError):
            call.client.remove(path)

    def remove_parts(self) -> None:
        """See `Transport`."""
        with self._talking("remove unfinished files") as call:
            for name in call.client.listing(self._folder or ".", PART):
                with suppress(FileNotFoundError):
                    call.client.remove(self._path(name))

    def modified(self) -> int | None:
        """When the folder was changed, in seconds since 1970; our own server answers with its time now."""
        with self._talking("look at the outbox") as call:
            return call.client.facts(self._folder or ".").modified

    def close(self) -> None:
        """See `Transport`."""
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    @contextmanager
    def _talking(self, doing: str) -> Iterator[_Call]:
        """One call: connected, watched, foreign errors translated; an error ends the connection."""
        with self._guard:
            connection = self._connection = self._connection or self._carrier(self._way)
        watchdog = Watchdog(self.patience, connection.close)
        finished = False
        try:
            with watchdog:
                yield _Call(connection.client(), watchdog)
            finished = not watchdog.finding
        except PeerSyncError:
            raise
        except OwnDiskError as error:
            raise error.cause from error.cause.__cause__
        # The library raises here whatever its own thread met: errors of its cryptography too.
        except Exception as error:
            failure = connection.explained(error)
            raise translated(failure.cause, doing, failure.host, watchdog.finding) from failure.cause
        finally:
            if not finished:
                self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        with self._guard:
            if self._connection is connection:
                self._connection = None
        connection.close()
