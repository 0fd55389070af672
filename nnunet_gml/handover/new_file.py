"""Files that are handed over: new, and there only when they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peer_sync.errors import ConfigError
from peer_sync.storage import becoming, part_path


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Where to write what becomes ``target`` at the end; nothing is left of it if the block fails.

    Raises:
        ConfigError: ``target`` exists.
    """
    if target.exists():
        raise ConfigError(f"{target} exists, and nothing is overwritten", "name another file, or remove it")
    part = part_path(target.absolute().parent)
    with becoming(target, part):
        yield part
