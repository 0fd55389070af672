"""Servers that accept and do not answer."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import hostile_kit
import pytest
from process_kit import SiteProcess, end, wait_for
from proxy_kit import doing_after, whole
from state_kit import ledger

LARGE_BYTES = 12 << 20
"""More than the system holds for a server that is stopped."""


def goes_on_without(north: SiteProcess, round_: int) -> None:
    """A round with a silent peer: ours is offered at once, the failure is told, nobody waits."""
    north.exchange(round_, "south")
    wait_for(lambda: ledger(north.site, event="offer", round=round_, verdict="offered"), "offer of ours")
    message = north.next("say")["say"]
    assert "peer 'south'" in message
    assert "training goes on" in message


@pytest.mark.parametrize("count", [0, 300_000], ids=["before the greeting", "within the weights"])
@pytest.mark.usefixtures("carrier")
def test_the_peers_server_is_stopped(pair, start_both, count):
    """The peer's server is stopped (SIGSTOP) and accepts without answering.

    Before it has spoken, or in the middle of the weights: this site tells it, offers, gives up in time,
    tries again, and takes the weights once the server goes on.
    """
    north, south = start_both(size_bytes=LARGE_BYTES)
    south.offer(1)
    pair.proxy.shape = doing_after(count, lambda: south.signal(signal.SIGSTOP, server=True))
    if not count:
        south.signal(signal.SIGSTOP, server=True)

    goes_on_without(north, 1)
    pair.proxy.shape = whole
    south.signal(signal.SIGCONT, server=True)

    north.accepted(1, "south", 1)
    end(north, south)


def test_the_training_ends_while_the_peer_is_silent(pair, start):
    """This site's training ends while it waits for a peer's server that never speaks.

    With the limits of time of earnest it ends at once all the same, with exit code 0.
    """
    north = start("north", "--patient")
    with deaf_listener(b"") as pair.proxy.target:
        north.exchange(1, "south")
        wait_for(lambda: pair.proxy.connections, "connection")
        wait_for(lambda: ledger(north.site, event="offer", verdict="offered"), "offer of ours")
        started = time.monotonic()

        north.end()

    assert time.monotonic() - started < 15


def test_the_peers_site_is_stopped(pair, start_both):
    """The peer's training is stopped (SIGSTOP), its server is not.

    The last offer can still be had: a server of its own process serves on.
    """
    north, south = start_both()
    south.offer(1)
    south.signal(signal.SIGSTOP)

    north.exchange(1, "south")

    north.accepted(1, "south", 1)
    south.signal(signal.SIGCONT)
    end(north, south)


@contextmanager
def deaf_listener(greeting: bytes) -> Iterator[int]:
    """Accepts, says one thing at most, and reads on for ever; its port."""
    accepted: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])
                accepted[-1].sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for sock in accepted:
                sock.close()


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="a greeting", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("carrier")
def test_a_listener_that_never_speaks(pair, start, greeting):
    """Instead of the peer's server something listens that says nothing, or a greeting and no more.

    Told, offered all the same, and tried again: the real server is found when it is back.
    """
    north = start("north")
    hidden = pair.proxy.target
    with deaf_listener(greeting) as pair.proxy.target:
        goes_on_without(north, 1)
        pair.proxy.target = hidden
    south = start("south")
    south.offer(1)

    north.accepted(1, "south", 1)
    end(north, south)


@pytest.mark.usefixtures("carrier")
def test_a_server_that_stops_after_the_login(pair, start):
    """The server has the right host key, lets this site log in, and never answers a request.

    Told, offered all the same, and tried again: the real server is found when it is back.
    """
    north = start("north")
    hidden = pair.proxy.target
    with hostile_kit.hostile_server(str(pair.south.host_key)) as pair.proxy.target:
        goes_on_without(north, 1)
        pair.proxy.target = hidden
    south = start("south")
    south.offer(1)

    north.accepted(1, "south", 1)
    end(north, south)
