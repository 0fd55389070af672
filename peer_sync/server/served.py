"""The outbox as strangers see it: flat, read-only, known names, no links followed."""

from __future__ import annotations

import os
import stat
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
    """Everything goes through one open directory; no path is ever joined."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def files(self) -> list[FileFacts]:
        """The published files, sorted by name."""
        found = []
        for name in sorted(filter(names.is_published, os.listdir(self._descriptor))):  # noqa: PTH208
            try:
                found.append(self.facts(name))
            except FileNotFoundError:
                continue
        return found

    def facts(self, path: str) -> FileFacts:
        """Facts about one file. Raises FileNotFoundError for anything that is not a published file."""
        name = self._name(path)
        return _facts(name, os.stat(name, dir_fd=self._descriptor, follow_symlinks=False))

    def open(self, path: str) -> int:
        """A descriptor to read one file. Raises OSError."""
        name = self._name(path)
        descriptor = os.open(name, OPEN_FLAGS, dir_fd=self._descriptor)
        try:
            _facts(name, os.fstat(descriptor))
        except FileNotFoundError:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._descriptor)

    @staticmethod
    def _name(path: str) -> str:
        name = path.removeprefix("/")
        if not names.is_published(name):
            raise FileNotFoundError(path)
        return name


def open_facts(descriptor: int) -> FileFacts:
    """Facts about an open file."""
    return _facts("", os.fstat(descriptor))


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """At most 256 KiB, however much is asked for."""
    return os.pread(descriptor, min(length, MAX_READ_BYTES), offset) if offset <= MAX_OFFSET else b""


def _facts(name: str, status: os.stat_result) -> FileFacts:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(name)
    return FileFacts(name, status.st_size, int(status.st_mtime))
