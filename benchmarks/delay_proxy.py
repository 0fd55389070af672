"""A long line on loopback: what comes in goes out later, and no faster than the line's capacity.

Run as a program it says ``listening on PORT`` and works until standard input closes.
"""

from __future__ import annotations

import argparse
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PIECE_BYTES = 64 * 1024
QUEUED_PIECES = 512


class Line:
    """One direction of a connection.

    Args:
        source: where bytes come from.
        target: where they go.
        delay_seconds: from one end to the other.
        bytes_per_second: capacity.
    """

    def __init__(
        self, source: socket.socket, target: socket.socket, delay_seconds: float, bytes_per_second: float
    ) -> None:
        self._source = source
        self._target = target
        self._delay = delay_seconds
        self._rate = bytes_per_second
        self._pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(QUEUED_PIECES)

    def start(self) -> None:
        """Work in two threads until the source ends."""
        for work in (self._take, self._give):
            threading.Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        free = 0.0
        with suppress(OSError):
            while data := self._source.recv(PIECE_BYTES):
                free = max(free, time.monotonic()) + len(data) / self._rate
                self._pieces.put((free + self._delay, data))
        self._pieces.put((0.0, b""))

    def _give(self) -> None:
        with suppress(OSError):
            while (piece := self._pieces.get())[1]:
                time.sleep(max(0.0, piece[0] - time.monotonic()))
                self._target.sendall(piece[1])
        for sock in (self._source, self._target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def carry(listener: socket.socket, port: int, delay_seconds: float, bytes_per_second: float) -> None:
    """Take connections and lead them to ``port`` of this machine, with the delay each way. Never returns."""
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Line(near, far, delay_seconds, bytes_per_second).start()
        Line(far, near, delay_seconds, bytes_per_second).start()


@contextmanager
def at_work(
    description: str | None, seen_by: Callable[[socket.socket], Any] = lambda listener: listener
) -> Iterator[None]:
    """Listen as the command line asks for, say where, and carry in the background.

    Args:
        description: of the program.
        seen_by: what stands between the listener and `carry`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("port", type=int, help="where connections are led to, on this machine")
    parser.add_argument("--round-trip", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--capacity", type=float, required=True, metavar="BYTES_PER_SECOND")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        work = (seen_by(listener), arguments.port, arguments.round_trip / 2, arguments.capacity)
        threading.Thread(target=carry, args=work, daemon=True).start()
        sys.stdout.write(f"listening on {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        yield


def main() -> int:
    """Carry until standard input closes."""
    with at_work(__doc__):
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
