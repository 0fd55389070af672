"""The way to a peer's outbox: what it promises, a folder that keeps the promise, and patience."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from peer_sync.errors import NotFoundError, RejectedError, TransportError
from peer_sync.storage import copy_limited, part_path, sync_folder

T = TypeVar("T")
VISIBLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_NAMES = 1000
FULL = (errno.ENOSPC, errno.EDQUOT)


class Transport(Protocol):
    """A folder that this site and one peer can both see.

    A method returns only when its work is done, and raises `TransportError`
    otherwise; an OSError is our own disk's. A file is seen by the peer whole or
    not at all. Only `close` may be called by another thread.
    """

    def names(self) -> list[str]:
        """Files the peer has published, sorted; unfinished uploads and odd names are not listed."""

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """Copy the peer's ``name`` to ``target``; returns its bytes.

        Raises:
            NotFoundError: there is no such file.
            RejectedError: rule ``size``: the file is larger than ``max_bytes``.
        """

    def put(self, source: Path, name: str) -> None:
        """Make ``source`` visible to the peer as ``name``, replacing an older one."""

    def close(self) -> None:
        """Let go of the connection; a later call opens a new one."""


def check_name(name: str) -> str:
    """Let only plain file names through. Raises `TransportError`."""
    if not VISIBLE.fullmatch(name):
        raise TransportError(f"expected a plain file name, found {name!r}")
    return name


def too_large(name: str, max_bytes: int) -> RejectedError:
    """The error for a file over its limit."""
    return RejectedError("size", f"{name}: expected at most {max_bytes} bytes, found more")


class FolderTransport:
    """A folder both sites can see: a shared disk, or one that something else synchronises."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def names(self) -> list[str]:
        """See `Transport`."""
        try:
            with os.scandir(self.path) as entries:
                found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError as error:
            raise self._translated(error, "list") from error
        return sorted(name for name in found if VISIBLE.fullmatch(name))[-MAX_NAMES:]

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """See `Transport`."""
        path = self.path / check_name(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                copied = copy_limited(descriptor, target, max_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise self._translated(error, f"read {name}") from error
        if copied > max_bytes:
            raise too_large(name, max_bytes)
        return copied

    def put(self, source: Path, name: str) -> None:
        """See `Transport`."""
        path = self.path / check_name(name)
        part = part_path(self.path)
        try:
            with source.open("rb") as file:
                copy_limited(file.fileno(), part, os.fstat(file.fileno()).st_size)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(self.path)
        except OSError as error:
            raise self._translated(error, f"write {name}") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Transport`; there is nothing to close."""

    def _translated(self, error: OSError, doing: str) -> TransportError:
        message = f"cannot {doing} in {self.path}: {error.strerror}"
        if error.errno == errno.ENOENT:
            return NotFoundError(message, hint="not published yet, or the folder is not mounted here")
        return TransportError(message, hint="check that the folder is there and may be used")


class Retrying:
    """A transport that tries again after a failure, on a fresh connection.

    A missing file and a refused one are answers, not failures: they are not tried again.

    Args:
        transport: what does the work.
        attempts: how often to try in all.
        wait_seconds: pause before the second attempt; it doubles each time.
    """

    def __init__(self, transport: Transport, attempts: int = 3, wait_seconds: float = 0.5) -> None:
        self.transport = transport
        self.attempts = attempts
        self.wait_seconds = wait_seconds
        self.retries = 0

    def names(self) -> list[str]:
        """See `Transport`."""
        return self._tried(self.transport.names)

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """See `Transport`."""
        return self._tried(lambda: self.transport.get(name, target, max_bytes))

    def put(self, source: Path, name: str) -> None:
        """See `Transport`."""
        self._tried(lambda: self.transport.put(source, name))

    def close(self) -> None:
        """See `Transport`."""
        self.transport.close()

    def _tried(self, work: Callable[[], T]) -> T:
        for attempt in range(1, self.attempts):
            try:
                return work()
            except NotFoundError:
                raise
            except TransportError:
                self.transport.close()
                self.retries += 1
                time.sleep(self.wait_seconds * 2 ** (attempt - 1))
        return work()
