"""A folder both sites can see: a shared disk, or one that something else synchronises."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from peer_sync.errors import NotFoundError, TransportError
from peer_sync.storage import copy_rest, part_path, remove_parts, sync_file, sync_folder
from peer_sync.transport import MAX_NAMES, VISIBLE, check_name, too_large

FULL = (errno.ENOSPC, errno.EDQUOT)


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
                size = copy_rest(descriptor, target, max_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise self._translated(error, f"read {name}") from error
        if size > max_bytes:
            raise too_large(name, max_bytes)
        return size

    def put(self, source: Path, name: str) -> None:
        """See `Transport`."""
        path = self.path / check_name(name)
        part = part_path(self.path)
        with source.open("rb") as file:
            try:
                copy_rest(file.fileno(), part, os.fstat(file.fileno()).st_size)
                sync_file(part)
                part.replace(path)
                sync_folder(self.path)
            except OSError as error:
                raise self._translated(error, f"write {name}") from error
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """See `Transport`."""
        try:
            (self.path / check_name(name)).unlink(missing_ok=True)
        except OSError as error:
            raise self._translated(error, f"remove {name}") from error

    def remove_parts(self) -> None:
        """See `Transport`."""
        try:
            remove_parts(self.path)
        except OSError as error:
            raise self._translated(error, "remove unfinished files") from error

    def close(self) -> None:
        """See `Transport`; there is nothing to close."""

    def _translated(self, error: OSError, doing: str) -> TransportError:
        message = f"cannot {doing} in {self.path}: {error.strerror}"
        if error.errno == errno.ENOENT:
            return NotFoundError(message, hint="not published yet, or the folder is not mounted here")
        return TransportError(message, hint="check that the folder is there and may be used")
