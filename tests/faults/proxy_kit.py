"""A TCP proxy on loopback: the network between two sites, to be broken in many ways."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from courier_kit import free_port

from peer_sync.site import Site

PIECE_BYTES = 4096
AHEAD_BYTES = 64 * 1024
"""So little that a server cannot send everything before a fault strikes."""
RESET = struct.pack("ii", 1, 0)


class Wire:
    """What flows one way on one connection.

    Attributes:
        source: whose data it is.
        target: who is to get it.
        offset: bytes that came from the source so far.
    """

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.offset = 0
        self.held = b""

    def send(self, data: bytes) -> None:
        """On to the target."""
        self.target.sendall(data)

    def finish(self) -> None:
        """An orderly end, with or without all data."""
        self.target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Both ends lose the connection at once."""
        for end in (self.source, self.target):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()


Shape = Callable[[Wire, bytes], None]
"""Passes one piece of data on, or does something else with it."""


def whole(wire: Wire, data: bytes) -> None:
    """A good network."""
    wire.send(data)


def cut_after(count: int) -> Shape:
    """The connection breaks after ``count`` bytes."""

    def shape(wire: Wire, data: bytes) -> None:
        wire.send(data[: max(0, count - wire.offset)])
        if wire.offset + len(data) >= count:
            wire.cut()

    return shape


def truncated_after(count: int) -> Shape:
    """An orderly end after ``count`` bytes; what follows is lost."""

    def shape(wire: Wire, data: bytes) -> None:
        if wire.offset < count:
            wire.send(data[: count - wire.offset])
            if wire.offset + len(data) >= count:
                wire.finish()

    return shape


def silent_after(count: int) -> Shape:
    """A pulled cable: after ``count`` bytes nothing comes, and nobody says so."""

    def shape(wire: Wire, data: bytes) -> None:
        wire.send(data[: max(0, count - wire.offset)])

    return shape


def trickling_after(count: int, seconds: float) -> Shape:
    """After ``count`` bytes, one byte at a time."""

    def shape(wire: Wire, data: bytes) -> None:
        start = max(0, count - wire.offset)
        wire.send(data[:start])
        for number in range(start, len(data)):
            time.sleep(seconds)
            wire.send(data[number : number + 1])

    return shape


def slowed_after(count: int, seconds: float) -> Shape:
    """After ``count`` bytes every piece takes its time."""

    def shape(wire: Wire, data: bytes) -> None:
        time.sleep(seconds if wire.offset >= count else 0)
        wire.send(data)

    return shape


def flipped_at(position: int) -> Shape:
    """One bit changes on the way."""

    def shape(wire: Wire, data: bytes) -> None:
        if 0 <= position - wire.offset < len(data):
            changed = bytearray(data)
            changed[position - wire.offset] ^= 0x10
            data = bytes(changed)
        wire.send(data)

    return shape


def swapped_after(count: int) -> Shape:
    """Two neighbouring pieces of data arrive in the wrong order."""

    def shape(wire: Wire, data: bytes) -> None:
        if wire.offset <= count < wire.offset + len(data):
            wire.held = data
            return
        wire.send(data + wire.held)
        wire.held = b""

    return shape


def doing_after(count: int, action: Callable[[], object]) -> Shape:
    """After ``count`` bytes of a connection something else happens, once; the network is good."""
    done = threading.Event()

    def shape(wire: Wire, data: bytes) -> None:
        if wire.offset + len(data) >= count and not done.is_set():
            done.set()
            action()
        wire.send(data)

    return shape


def move_behind(site: Site) -> Proxy:
    """Let a site listen elsewhere, and put a proxy where its peers look for it; its file is read anew."""
    port, hidden = site.listen[1], free_port()
    site.path.write_text(site.path.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{hidden}"))
    return Proxy(port, hidden)


class Proxy:
    """Listens on ``port`` and leads to ``target``, both on 127.0.0.1.

    Attributes:
        shape: what happens to data from the server; may be changed at any time.
        upward: what happens to data to the server; likewise.
        reversed_in: so many connections wait for each other, and are then served last come first.
        detour: ports to which the next connections go instead.
        connections: how many came so far.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.shape: Shape = whole
        self.upward: Shape = whole
        self.reversed_in = 1
        self.detour: list[int] = []
        self.connections = 0
        self._waiting: list[socket.socket] = []
        self._wires: list[Wire] = []
        self._pumps: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        for client in self._waiting:
            client.close()
        for wire in self._wires:
            wire.cut()
        for pump in self._pumps:
            pump.join(10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._waiting.append(client)
            if len(self._waiting) < self.reversed_in:
                continue
            while self._waiting:
                self._join(self._waiting.pop())

    def _join(self, client: socket.socket) -> None:
        target = self.detour.pop(0) if self.detour else self.target
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, AHEAD_BYTES)
        try:
            server.connect(("127.0.0.1", target))
        except OSError:
            server.close()
            client.close()
            return
        for wire, name in ((Wire(server, client), "shape"), (Wire(client, server), "upward")):
            self._wires.append(wire)
            self._pumps.append(threading.Thread(target=self._pump, args=[wire, name], daemon=True))
            self._pumps[-1].start()

    def _pump(self, wire: Wire, shape: str) -> None:
        with suppress(OSError):
            while data := wire.source.recv(PIECE_BYTES):
                getattr(self, shape)(wire, data)
                wire.offset += len(data)
        with suppress(OSError):
            wire.finish()
