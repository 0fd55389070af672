"""A line between a site's server and its peers: what passes is counted, and may be delayed and narrowed.

Run as a program it says ``listening on PORT``, answers every line on standard input with the bytes that have
passed so far, and works until standard input closes.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from delay_proxy import at_work


class Counts:
    """Bytes of all connections together, without the headers of TCP and below."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.passed = {"to_server": 0, "to_client": 0}

    def add(self, way: str, count: int) -> None:
        """Count what has passed one way."""
        with self._lock:
            self.passed[way] += count


class CountedSocket:
    """The client's end of a connection."""

    def __init__(self, sock: socket.socket, counts: Counts) -> None:
        self._sock = sock
        self._counts = counts

    def recv(self, size: int) -> bytes:
        """As a socket does."""
        data = self._sock.recv(size)
        self._counts.add("to_server", len(data))
        return data

    def sendall(self, data: bytes) -> None:
        """As a socket does."""
        self._counts.add("to_client", len(data))
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the socket's own
        return getattr(self._sock, name)


class CountedListener:
    """A listening socket whose connections are counted."""

    def __init__(self, listener: socket.socket, counts: Counts) -> None:
        self._listener = listener
        self._counts = counts

    def accept(self) -> tuple[CountedSocket, Any]:
        """As a socket does."""
        sock, address = self._listener.accept()
        return CountedSocket(sock, self._counts), address


@dataclass(frozen=True)
class Line:
    """A line at work, in a process of its own.

    Attributes:
        port: where it begins, on this machine.
    """

    port: int
    _process: subprocess.Popen[str]

    def passed_bytes(self) -> dict[str, int]:
        """All that has passed so far: ``to_server`` and ``to_client``."""
        stream = cast(IO[str], self._process.stdin)
        stream.write("\n")
        stream.flush()
        return dict(json.loads(cast(IO[str], self._process.stdout).readline()))


@contextmanager
def line_to(port: int, round_trip_seconds: float = 0.0, bytes_per_second: float = math.inf) -> Iterator[Line]:
    """A line to a server on this machine, of any length and capacity."""
    command = [sys.executable, str(Path(__file__)), str(port)]
    command += ["--round-trip", str(round_trip_seconds), "--capacity", str(bytes_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        greeting = cast(IO[str], process.stdout).readline()
        try:
            yield Line(int(greeting.split()[-1]), process)
        finally:
            cast(IO[str], process.stdin).close()


def main() -> int:
    """Carry and count until standard input closes; each line of it asks for the counts."""
    counts = Counts()
    with at_work(__doc__, lambda listener: CountedListener(listener, counts)):
        for _ in sys.stdin:
            sys.stdout.write(json.dumps(counts.passed) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
