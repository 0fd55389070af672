"""Our own disk in the middle of a call to a peer: what fails here is not the peer's fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class OwnDiskError(Exception):
    """Carries an OSError of our own disk past those who would take it for the peer's.

    Args:
        cause: the error itself.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def own_disk() -> Iterator[None]:
    """Work on our own disk. Raises `OwnDiskError`."""
    try:
        yield
    except OSError as error:
        raise OwnDiskError(error) from error


@contextmanager
def continuing(target: Path, size: int) -> Iterator[tuple[int, Callable[[bytes], int]]]:
    """Open ``target`` to bring it to ``size`` bytes; what is larger is begun anew.

    Yields:
        How many bytes it holds, and what writes behind them. All of them are written
        at the end, also after an error, so that the next attempt can continue.
    """
    with own_disk():
        file = target.open("ab")
    try:
        with own_disk():
            if file.tell() > size:
                file.truncate(0)
            start = file.seek(0, 2)
        yield start, own_disk()(file.write)
        with own_disk():
            file.flush()
    finally:
        with suppress(OSError):
            file.close()
