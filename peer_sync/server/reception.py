"""Who may come in and stay: the embedded server's door, without a word of SSH."""

from __future__ import annotations

import argparse
import errno
import logging
import logging.handlers
import os
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from peer_sync.errors import ConfigError, PeerSyncError
from peer_sync.site import Site, load_site

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
BIND_SECONDS = 2.0
LOG_BYTES = 1 << 20
MAX_LINE_CHARACTERS = 500


@dataclass(frozen=True)
class Limits:
    """How much a stranger may cost us.

    Attributes:
        login_seconds: from connection to login.
        idle_seconds: between two requests of a peer.
        total: connections at a time.
        per_address: connections at a time from one address.
        per_peer: connections at a time of one key; the oldest makes room.
    """

    login_seconds: float = 30
    idle_seconds: float = 300
    total: int = 64
    per_address: int = 16
    per_peer: int = 4


class Guest(Protocol):
    """One connection."""

    address: str
    peer: str
    started: float
    last_seen: float

    @property
    def known(self) -> bool:
        """Whether it has logged in."""

    @property
    def active(self) -> bool:
        """Whether it is still there."""

    def close(self) -> None:
        """End it."""


def overdue(guests: Sequence[Guest], limits: Limits, now: float) -> list[Guest]:
    """The connections whose time for login, or for the next request, is over."""
    return [
        guest
        for guest in guests
        if (guest.known and now - guest.last_seen > limits.idle_seconds)
        or (not guest.known and now - guest.started > limits.login_seconds)
    ]


def surplus(guests: Sequence[Guest], limits: Limits) -> list[Guest]:
    """The oldest connections of each peer that has more than its share."""
    known = sorted((guest for guest in guests if guest.known), key=lambda guest: -guest.started)
    count: Counter[str] = Counter()
    found = []
    for guest in known:
        count[guest.peer] += 1
        if count[guest.peer] > limits.per_peer:
            found.append(guest)
    return found


def must_go(guests: Sequence[Guest], address: str, limits: Limits) -> list[Guest] | None:
    """Who makes room for a newcomer: the oldest stranger; None when the newcomer has to go."""
    neighbours = [guest for guest in guests if guest.address == address]
    if len(neighbours) >= limits.per_address:
        return _oldest_stranger(neighbours)
    if len(guests) >= limits.total:
        return _oldest_stranger(guests)
    return []


def _oldest_stranger(guests: Sequence[Guest]) -> list[Guest] | None:
    strangers = [guest for guest in guests if not guest.known]
    return [min(strangers, key=lambda guest: guest.started)] if strangers else None


class Reception:
    """Listens at once; `serve` then lets guests in until ``stop`` is set.

    Args:
        listen: host and port; port 0 takes any.
        welcome: makes a guest of a fresh connection; None when that fails.
        limits: bounds for strangers.

    Raises:
        ConfigError: the port is busy.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        welcome: Callable[[socket.socket, str], Guest | None],
        limits: Limits,
    ) -> None:
        self.stop = threading.Event()
        self.guests: list[Guest] = []
        self._welcome = welcome
        self._limits = limits
        self._listener = bind(listen)
        host, port = self._listener.getsockname()[:2]
        self.address = f"{host}:{port}"

    def serve(self, ends: Sequence[int] = (), parent: int | None = None) -> None:
        """Return when ``stop`` is set, one of ``ends`` is closed, or process ``parent`` is gone."""
        listener = self._listener.fileno()
        while not self.stop.is_set() and (parent is None or os.getppid() == parent):
            ready, _, _ = select.select([listener, *ends], [], [], TICK_SECONDS)
            if any(end in ready and not os.read(end, 4096) for end in ends):
                break
            self._sweep()
            if listener in ready:
                self._admit()
        self._listener.close()
        for guest in list(self.guests):
            self._dismiss(guest)

    def _admit(self) -> None:
        try:
            sock, origin = self._listener.accept()
        except OSError as error:
            log.warning("cannot accept: %s", error)
            time.sleep(TICK_SECONDS)  # without a free descriptor the next select returns at once
            return
        leaving = must_go(self.guests, origin[0], self._limits)
        if leaving is None:
            log.warning("%s: too many connections", origin[0])
            sock.close()
            return
        for guest in leaving:
            self._dismiss(guest)
        newcomer = self._welcome(sock, origin[0])
        if newcomer is not None:
            self.guests.append(newcomer)

    def _sweep(self) -> None:
        for guest in overdue(self.guests, self._limits, time.monotonic()):
            log.info("%s: out of time", guest.address)
            self._dismiss(guest)
        for guest in surplus(self.guests, self._limits):
            log.warning("%s: too many connections of %s", guest.address, guest.peer)
            self._dismiss(guest)
        self.guests = [guest for guest in self.guests if guest.active]

    def _dismiss(self, guest: Guest) -> None:
        guest.close()
        self.guests.remove(guest)


def bind(listen: tuple[str, int]) -> socket.socket:
    """Listen; a port that an ending server still holds is waited for, shortly."""
    host, port = listen
    deadline = time.monotonic() + BIND_SECONDS
    while True:
        try:
            return socket.create_server(listen, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(TICK_SECONDS / 2)
                continue
            raise ConfigError(
                f"cannot listen on {host}:{port}: expected a free port, found {error.strerror}",
                hint="stop the program that uses it, or change listen (and address in federation.toml)",
            ) from error


class Server(Protocol):
    """What `main` runs."""

    address: str

    def serve(self, ends: Sequence[int] = (), parent: int | None = None) -> None:
        """Answer until one of ``ends`` closes or ``parent`` is gone."""


def main(make: Callable[[Site], Server], argv: Sequence[str] | None = None) -> int:
    """Serve one site's outbox until standard input closes; says ``listening on``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m peer_sync.server", description="read-only SFTP server of a site"
    )
    parser.add_argument("site", help="site.toml")
    parser.add_argument("--parent", type=int, help="end as well when this process is gone")
    arguments = parser.parse_args(argv)
    try:
        site = load_site(arguments.site)
        server = make(site)
    except PeerSyncError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return 2
    _log_into(site)
    sys.stdout.write(f"listening on {server.address}\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        server.serve([sys.stdin.fileno()], arguments.parent)
    return 0


class _OneLine(logging.Formatter):
    """Whatever strangers sent stays on its line."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record)[:MAX_LINE_CHARACTERS].encode("unicode_escape").decode("ascii")


def _log_into(site: Site) -> None:
    file = logging.handlers.RotatingFileHandler(site.folder / "server.log", maxBytes=LOG_BYTES, backupCount=1)
    file.setFormatter(_OneLine("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[file], level=logging.INFO)
    logging.getLogger("paramiko").setLevel(logging.ERROR)
