"""A sliding window of requests in one thread: fast over long distances, and bounded in memory.

Only arithmetic: who sends and receives is given from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from peer_sync.errors import TransportError

READ_DEPTH = 64
WRITE_DEPTH = 32

Write: TypeAlias = Callable[[bytes], object]
Count: TypeAlias = Callable[[int], object]


class Requests(Protocol):
    """One open remote file, whose requests may overlap."""

    def ask_read(self, offset: int, length: int) -> int:
        """Send a read request; returns its number."""

    def ask_write(self, offset: int, data: bytes) -> int:
        """Send a write request; returns its number."""

    def answer(self, number: int) -> bytes:
        """Wait for the answer to a request. Raises EOFError behind the end of the file."""


def read_all(
    requests: Requests, start: int, size: int, request_bytes: int, write: Write, moved: Count
) -> None:
    """Read everything from ``start`` up to ``size`` in order; ``moved`` is told the size of each piece.

    Raises:
        TransportError: the file got shorter.
    """
    open_requests: deque[tuple[int, int, int]] = deque()
    offset = start
    while offset < size or open_requests:
        while offset < size and len(open_requests) < READ_DEPTH:
            length = min(request_bytes, size - offset)
            open_requests.append((requests.ask_read(offset, length), offset, length))
            offset += length
        number, begin, length = open_requests.popleft()
        try:
            data = requests.answer(number)
        except EOFError as error:
            raise TransportError(f"expected {size} bytes, found an end at or before byte {begin}") from error
        if not 0 < len(data) <= length:
            raise TransportError(f"expected 1 to {length} bytes in an answer, found {len(data)}")
        moved(len(data))
        write(data)
        if len(data) < length:
            rest = begin + len(data), length - len(data)
            open_requests.appendleft((requests.ask_read(*rest), *rest))


def write_all(
    requests: Requests, size: int, request_bytes: int, read: Callable[[int], bytes], moved: Count
) -> None:
    """Write exactly ``size`` bytes; ``moved`` is told the size of each piece once it is confirmed.

    Raises:
        TransportError: the source got shorter.
    """
    open_requests: deque[tuple[int, int]] = deque()
    offset = 0
    while offset < size or open_requests:
        if offset < size and len(open_requests) < WRITE_DEPTH:
            data = read(min(request_bytes, size - offset))
            if not data:
                raise TransportError(f"expected {size} bytes to send, found {offset}")
            open_requests.append((requests.ask_write(offset, data), len(data)))
            offset += len(data)
            continue
        number, length = open_requests.popleft()
        requests.answer(number)
        moved(length)
