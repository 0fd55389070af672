"""As far as a network alone can tell: does a name resolve, does a port answer, does SSH greet?"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from peer_sync.errors import quoted

CONNECT_SECONDS = 16.0
GREETING_SECONDS = 10.0
MAX_ADDRESSES = 4
MAX_GREETING_BYTES = 16 * 1024
GREETING = "SSH-"
REFUSED, TIMEOUT, UNREACHABLE, FORBIDDEN, OTHER = "refused", "timeout", "unreachable", "forbidden", "other"
KINDS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: TIMEOUT,
    errno.ENETUNREACH: UNREACHABLE,
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETDOWN: UNREACHABLE,
    errno.EHOSTDOWN: UNREACHABLE,
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
}


@dataclass(frozen=True)
class Miss:
    """An attempt to connect that failed: to which address, in which way, and in which words."""

    address: str
    kind: str
    words: str


@dataclass(frozen=True)
class Hit:
    """A connection that stands: to which address, from which one, and how long that took."""

    sock: socket.socket
    address: str
    source: str
    seconds: float


class GreetingError(Exception):
    """No SSH server greets; the text says what came instead."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, at most four. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]


def source_of(address: str, port: int) -> str:
    """Our own address on the way to ``address``; empty when there is no way. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, port))
            return str(sock.getsockname()[0])
    except OSError:
        return ""


def connect(addresses: Sequence[str], port: int, seconds: float) -> Hit | list[Miss]:
    """A connection to the first address that answers, or how each of them failed."""
    misses = []
    for address in addresses:
        started = time.monotonic()
        try:
            sock = socket.create_connection((address, port), timeout=seconds / len(addresses))
        except OSError as error:
            misses.append(_miss(address, error, seconds / len(addresses)))
            continue
        return Hit(sock, address, str(sock.getsockname()[0]), time.monotonic() - started)
    return misses


def greeting(sock: socket.socket, seconds: float) -> str:
    """The line with which an SSH server introduces itself. Raises `GreetingError`."""
    data, deadline = b"", time.monotonic() + seconds
    while len(data) < MAX_GREETING_BYTES:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            piece = sock.recv(1024)
        except TimeoutError as error:
            raise GreetingError(f"{_said(data)} within {seconds:.0f} s") from error
        except OSError as error:
            raise GreetingError(f"{_said(data)}, then {error.strerror}") from error
        data += piece
        lines = data.decode("utf-8", "replace").split("\n")
        for line in lines[:-1]:
            if line.startswith(GREETING):
                return line.strip()
        if not piece:
            raise GreetingError(f"{_said(data)}, then the end of the connection")
    raise GreetingError(_said(data))


def _miss(address: str, error: OSError, seconds: float) -> Miss:
    if isinstance(error, TimeoutError):
        return Miss(address, TIMEOUT, f"no answer within {seconds:.0f} s")
    kind = KINDS.get(error.errno or 0, OTHER)
    return Miss(address, kind, (error.strerror or str(error)).lower())


def _said(data: bytes) -> str:
    return f"no SSH greeting but {quoted(data[:60].decode('utf-8', 'replace'))}" if data else "not a word"
