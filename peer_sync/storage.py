"""Writing so that a power cut leaves the old state or the new one, never half of it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from peer_sync.errors import ConfigError
from peer_sync.names import PART_PREFIX

CHUNK_BYTES = 1 << 20


def part_path(folder: Path) -> Path:
    """A fresh name for something unfinished in ``folder``."""
    return folder / f"{PART_PREFIX}{secrets.token_hex(8)}"


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of ``path`` durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def becoming(path: Path, part: Path) -> Iterator[None]:
    """What the block writes to ``part`` becomes ``path`` at its end; if the block fails, nothing is left."""
    try:
        yield
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``: ``.part-*``, fsync, rename, fsync of the folder."""
    part = part_path(path.parent)
    with becoming(path, part), part.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def append_line(path: Path, line: bytes) -> None:
    """Add a line, which ends with a line feed, whoever else adds one now. Raises OSError.

    Behind half a line, which a full disk or a power cut has left, a new one begins.
    """
    with path.open("a+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(missing_line_end(file) + line)
        file.flush()


def missing_line_end(file: BinaryIO) -> bytes:
    """What has to come before a new line: a line feed, where the file ends with half a line, else nothing.

    Args:
        file: open for reading and appending.
    """
    if not file.seek(0, os.SEEK_END):
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def copy_rest(source: int, target: Path, max_bytes: int) -> int:
    """Bring ``target`` up to an open file, behind what it holds already; returns its size then.

    It ends after ``max_bytes + 1`` bytes. A target larger than the source is written anew.
    """
    with target.open("ab") as file:
        size = file.tell()
        if size > os.fstat(source).st_size:
            size = file.truncate(0)
        os.lseek(source, size, os.SEEK_SET)
        while size <= max_bytes and (chunk := os.read(source, min(CHUNK_BYTES, max_bytes + 1 - size))):
            file.write(chunk)
            size += len(chunk)
    return size


def remove_parts(folder: Path) -> None:
    """Remove what an interrupted run left unfinished in ``folder``."""
    for path in folder.glob(f"{PART_PREFIX}*"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """Read a JSON object that we wrote; empty when the file is not there. Raises `ConfigError`."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(content, dict) or not all(type(value) in (int, str) for value in content.values()):
        raise _damaged(path)
    return content


def number_in(state: Mapping[str, Any], name: str, path: Path) -> int:
    """A whole number of what was read from the state file ``path``; 0 without it. Raises `ConfigError`."""
    value = state.get(name, 0)
    if type(value) is not int:
        raise _damaged(path)
    return value


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object durably."""
    write_durably(path, json.dumps(content, sort_keys=True).encode() + b"\n")


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"the state file {path} is damaged",
        hint="restore it from a backup; deleting it makes this site accept old offers once more",
    )
