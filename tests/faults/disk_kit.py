"""A small disk of its own for one site, to be filled and emptied."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

PAGE_BYTES = 4096


class SmallDisk:
    """A tmpfs on ``folder``.

    Args:
        folder: is made.
        size_bytes: of the disk.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        is_allowed = os.geteuid() == 0 and shutil.which("mount") is not None
        if not is_allowed or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("only somebody who may mount a tmpfs can make a small disk")

    def leave(self, free_bytes: int) -> None:
        """Fill the disk up to so many bytes, rounded down to pages, while others may write to it."""
        pages = free_bytes // PAGE_BYTES
        self.empty()
        with self._ballast.open("ab") as file:
            while (extra := os.statvfs(self.folder).f_bavail - pages) > 0:
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), extra * PAGE_BYTES)

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount, even where somebody still has a file open."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
