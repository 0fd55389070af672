"""The way to a folder that this site and another can both see: what every way promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from peer_sync.errors import RejectedError, TransportError

VISIBLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_NAMES = 1000


class Transport(Protocol):
    """A folder that this site and one other can both see.

    A method returns only when its work is done, and raises `TransportError`
    otherwise; an OSError is our own disk's. A file is seen by the other side whole or
    not at all. Only `close` may be called by another thread.
    """

    def names(self) -> list[str]:
        """Published files, sorted; unfinished uploads and odd names are not listed."""

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        """Copy ``name`` to ``target``, behind what ``target`` holds of it already; returns the file's size.

        A ``target`` that is larger than the file is written anew.

        Raises:
            NotFoundError: there is no such file.
            RejectedError: rule ``size``: the file is larger than ``max_bytes``.
        """

    def put(self, source: Path, name: str) -> None:
        """Make ``source`` visible to the other side as ``name``, replacing an older one."""

    def remove(self, name: str) -> None:
        """Remove a published file of our own, if it is there."""

    def remove_parts(self) -> None:
        """Remove what interrupted calls of `put` left."""

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
