"""Who may come in and stay: the embedded server's door, without a word of SSH."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from peer_sync.errors import ConfigError
from peer_sync.server import access

TICK_SECONDS = 0.5
BIND_SECONDS = 2.0


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

    @property
    def welcome(self) -> bool:
        """Whether it may stay; who has not logged in may."""

    def close(self) -> None:
        """End it."""

    def note(self, level: int, text: str, *values: object) -> None:
        """A line about it in the access log."""

    def ending(self) -> str:
        """Why it is not there any more, as far as that is known."""


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

    def serve(
        self,
        ends: Sequence[int] = (),
        parent: int | None = None,
        each_time: Callable[[], None] = lambda: None,
    ) -> None:
        """Return when ``stop`` is set, one of ``ends`` is closed, or process ``parent`` is gone.

        Meanwhile ``each_time`` is called at least twice a second.
        """
        listener = self._listener.fileno()
        while not self.stop.is_set() and (parent is None or os.getppid() == parent):
            ready, _, _ = select.select([listener, *ends], [], [], TICK_SECONDS)
            if any(end in ready and not os.read(end, 4096) for end in ends):
                break
            each_time()
            self._sweep()
            if listener in ready:
                self._admit()
        self._listener.close()
        for guest in list(self.guests):
            self._dismiss(guest, "the server ends")

    def _admit(self) -> None:
        try:
            sock, origin = self._listener.accept()
        except OSError as error:
            access.log.warning("cannot accept a connection: %s", error)
            time.sleep(TICK_SECONDS)  # without a free descriptor the next select returns at once
            return
        address = origin[0]
        leaving = must_go(self.guests, address, self._limits)
        if leaving is None:
            access.note(logging.WARNING, address, "", "turned away: too many connections")
            sock.close()
            return
        for guest in leaving:
            self._dismiss(guest, "a newcomer needs the place")
        newcomer = self._welcome(sock, address)
        if newcomer is not None:
            self.guests.append(newcomer)

    def _sweep(self) -> None:
        limits = self._limits
        for guest in overdue(self.guests, limits, time.monotonic()):
            late = (
                f"no request for {limits.idle_seconds:.0f} s"
                if guest.known
                else f"no login within {limits.login_seconds:.0f} s"
            )
            self._dismiss(guest, late)
        for guest in surplus(self.guests, limits):
            self._dismiss(guest, f"more than {limits.per_peer} connections with one key")
        for guest in [guest for guest in self.guests if not guest.welcome]:
            self._dismiss(guest, "its key is no longer in federation.toml")
        for guest in [guest for guest in self.guests if not guest.active]:
            seconds = time.monotonic() - guest.started
            guest.note(logging.INFO, "left after %.1f s: %s", seconds, guest.ending())
            self.guests.remove(guest)

    def _dismiss(self, guest: Guest, reason: str) -> None:
        guest.note(logging.INFO, "dismissed after %.1f s: %s", time.monotonic() - guest.started, reason)
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
