"""The outbox as strangers see it: flat, read-only, known names, no links followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync import names

OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_READ_BYTES = 256 * 1024
MAX_OFFSET = 1 << 62


@dataclass(frozen=True)
class FileFacts:
    """All that a stranger learns about a file."""

    name: str
    size_bytes: int
    modified: int


class ServedFolder:
    """Everything goes through the open directory; no path of a stranger is ever joined.

    The directory is opened for each request, so that one that was put in its place
    (from a backup, say) is served as well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[FileFacts]:
        """The published files, sorted by name."""
        found = []
        with self._directory() as directory:
            for name in sorted(filter(names.is_served, os.listdir(directory))):  # noqa: PTH208
                with suppress(FileNotFoundError):
                    found.append(_facts_at(name, directory))
        return found

    def facts(self, path: str) -> FileFacts:
        """Facts about one file. Raises FileNotFoundError for anything that is not a published file."""
        name = self._name(path)
        with self._directory() as directory:
            return _facts_at(name, directory)

    def open(self, path: str) -> int:
        """A descriptor to read one file. Raises OSError."""
        name = self._name(path)
        with self._directory() as directory:
            descriptor = os.open(name, OPEN_FLAGS, dir_fd=directory)
        try:
            _facts(name, os.fstat(descriptor))
        except FileNotFoundError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _directory(self) -> Iterator[int]:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _name(path: str) -> str:
        name = path.removeprefix("/")
        if not names.is_served(name):
            raise FileNotFoundError(path)
        return name


def open_facts(descriptor: int) -> FileFacts:
    """Facts about an open file."""
    return _facts("", os.fstat(descriptor))


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """At most 256 KiB, however much is asked for."""
    return os.pread(descriptor, min(length, MAX_READ_BYTES), offset) if offset <= MAX_OFFSET else b""


def _facts_at(name: str, directory: int) -> FileFacts:
    return _facts(name, os.stat(name, dir_fd=directory, follow_symlinks=False))


def _facts(name: str, status: os.stat_result) -> FileFacts:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(name)
    return FileFacts(name, status.st_size, int(status.st_mtime))
