"""How slow a peer may be, and how the watchdog sees it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import hostile_kit
import pytest
from courier_kit import wait_for
from hypothesis import given
from hypothesis import strategies as st
from paramiko import sftp
from sshd_kit import SSH, SSHD, running_sshd

from peer_sync.address import Patience
from peer_sync.errors import TransportError
from peer_sync.names import payload_name
from peer_sync.transport import rate
from peer_sync.transport.rate import Deadline, Pace, Watchdog
from peer_sync.transport.session import FileRequests
from peer_sync.transport.sftp import SftpTransport

NAME = payload_name(1, "a" * 64)
SLOW = Patience(min_bytes_per_second=1000, rate_seconds=10)
IMPATIENT = Patience(silence_seconds=100, deadline_seconds=100, min_bytes_per_second=20_000, rate_seconds=1)
CARRIERS = [
    "paramiko",
    pytest.param("ssh", marks=pytest.mark.skipif(SSH is None, reason="ssh is not installed")),
]


def findings(amounts: list[int]) -> list[str]:
    """What is found at the end of each second in which so many bytes moved."""
    pace, found = Pace(SLOW, 0), []
    for second, amount in enumerate(amounts, 1):
        pace.moved(amount)
        found.append(pace.finding(second))
    return found


def test_a_deadline():
    """Nothing before it, and a sentence at it."""
    deadline = Deadline(60, now=100)

    assert deadline.finding(159.9) == ""
    assert deadline.finding(160) == "expected an end within 60 s, found none"


def test_nothing_is_said_before_the_stretch_is_over():
    """Ten seconds are looked at: in the first nine, nothing is known."""
    assert findings([0] * 9) == [""] * 9


def test_a_trickle_is_found_with_both_rates():
    """By hand: 10 s with 5 bytes each are 50 bytes in 10 s."""
    assert findings([5] * 10)[-1] == "expected at least 1000 bytes/s, found 5 bytes/s over 10 s"


def test_a_good_beginning_is_no_excuse():
    """By hand: of seconds 5 to 14 only the fifth moved anything, 9999 bytes, which is 999.9 bytes/s."""
    amounts = [10**9] * 4 + [9_999] + [0] * 9

    assert [bool(finding) for finding in findings(amounts)] == [False] * 13 + [True]


@given(amounts=st.lists(st.integers(1000, 10**6), min_size=1, max_size=100))
def test_whoever_keeps_the_rate_is_never_cut(amounts):
    """However long it takes."""
    assert set(findings(amounts)) == {""}


@given(amounts=st.lists(st.integers(0, 999), min_size=10, max_size=100))
def test_whoever_is_slower_is_cut_at_once(amounts):
    """As soon as there is a stretch to look at."""
    assert findings(amounts)[9]


def test_the_watchdog_cuts_once_and_says_why():
    """And it goes with the call."""
    cuts = []
    watchdog = Watchdog(Patience(deadline_seconds=0.1), lambda: cuts.append(1))

    with watchdog:
        wait_for(lambda: cuts)
        time.sleep(0.4)

    assert cuts == [1]
    assert watchdog.finding == "expected an end within 0.1 s, found none"


def test_the_deadline_does_not_run_while_data_moves(monkeypatch):
    """A long transfer at an honest rate is left alone, and begins a new deadline when it ends."""
    clock = SlowClock()
    monkeypatch.setattr(rate, "time", clock)
    watchdog = Watchdog(Patience(deadline_seconds=3, rate_seconds=2, min_bytes_per_second=10), list)

    def looked_at() -> str:
        before = clock.looks
        wait_for(lambda: clock.looks > before + 1)
        return watchdog.finding

    with watchdog:
        clock.now += 2
        assert looked_at() == ""
        with watchdog.data() as moved:
            for _ in range(6):
                moved(10)
                clock.now += 1
                assert looked_at() == ""
        clock.now += 2
        assert looked_at() == ""
        clock.now += 2
        assert "an end within 3 s" in wait_for(lambda: watchdog.finding)


class SlowClock:
    """Time that passes only when it is told to, and how often it was looked at."""

    now, looks = 100.0, 0

    def monotonic(self) -> float:
        self.looks += 1
        return self.now


def reading(piece_bytes: int, pause_seconds: float) -> hostile_kit.Reply:
    """A server whose file is large, and which sends it in small pieces, slowly."""

    def reply(session: hostile_kit.Session, kind: int, number: int) -> None:
        if kind == sftp.CMD_OPEN:
            session.send(sftp.CMD_HANDLE, number, "handle")
        elif kind == sftp.CMD_FSTAT:
            session.send(sftp.CMD_ATTRS, number, 1, 0, 30_000)
        elif kind == sftp.CMD_READ:
            time.sleep(pause_seconds)
            session.send(sftp.CMD_DATA, number, b"x" * piece_bytes)
        else:
            session.send(sftp.CMD_STATUS, number, 0, "", "")

    return reply


@contextmanager
def way_to_reader(served_sites, reply, patience: Patience, carrier: str) -> Iterator[SftpTransport]:
    """North's way to a server that answers so."""
    south, key = served_sites["south"], served_sites["north"].private_key
    with hostile_kit.hostile_server(str(south.host_key), reply) as port:
        address, host_key = f"sftp://127.0.0.1:{port}", south.member.host_key
        transport = SftpTransport(address, host_key, key, "north", patience, carrier=carrier)
        yield transport
        transport.close()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_server_that_trickles_is_dropped(served_sites, tmp_path, carrier):
    """Each answer has one byte; what came is kept, so that another time it goes on there."""
    started = time.monotonic()

    with (
        way_to_reader(served_sites, reading(1, 0.02), IMPATIENT, carrier) as transport,
        pytest.raises(TransportError, match=r"expected at least 20000 bytes/s, found \d+ bytes/s over 1 s"),
    ):
        transport.get(NAME, tmp_path / "target", 30_000)

    assert time.monotonic() - started < 60
    assert 0 < (tmp_path / "target").stat().st_size < 200


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_slow_but_honest_server_is_heard_out(served_sites, tmp_path, carrier):
    """By hand: 30 pieces of 1000 bytes, 0.2 s apart, are 5,000 bytes/s at most; 500 are asked for."""
    patience = Patience(deadline_seconds=5, min_bytes_per_second=500, rate_seconds=2)

    with way_to_reader(served_sites, reading(1000, 0.2), patience, carrier) as transport:
        assert transport.get(NAME, tmp_path / "target", 30_000) == 30_000


class Narrow:
    """A line to ``target`` which at some moment gets narrow, both ways."""

    def __init__(self, target: int) -> None:
        self.is_narrow = threading.Event()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """No new connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                ends = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._target))
                for source, sink in (ends, ends[::-1]):
                    threading.Thread(target=self._pump, args=[source, sink], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with source, suppress(OSError):
            while data := source.recv(1 if self.is_narrow.is_set() else 65536):
                sink.sendall(data)
                if self.is_narrow.is_set():
                    time.sleep(0.02)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def narrow_line(tmp_path):
    """A real server behind such a line."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    with running_sshd(tmp_path / "sshd") as sshd:
        line = Narrow(sshd.port)
        yield sshd, line
        line.close()


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("verb", ["get", "put"])
def test_a_line_that_gets_narrow_is_given_up(narrow_line, monkeypatch, tmp_path, verb, carrier):
    """Bytes of packets that never get whole are no progress, in either direction."""
    sshd, line = narrow_line
    answer, size = FileRequests.answer, 30_000_000
    (tmp_path / NAME).write_bytes(bytes(size))
    address = f"sftp://{sshd.user}@127.0.0.1:{line.port}{tmp_path}"
    transport = SftpTransport(address, sshd.host_key, sshd.login_key, "nobody", IMPATIENT, carrier=carrier)

    def narrowing(self: FileRequests, number: int) -> bytes:
        line.is_narrow.set()
        return answer(self, number)

    monkeypatch.setattr(FileRequests, "answer", narrowing)
    started = time.monotonic()

    with pytest.raises(TransportError, match="expected at least 20000 bytes/s"):
        if verb == "get":
            transport.get(NAME, tmp_path / "target", size)
        else:
            transport.put(tmp_path / NAME, "copy")
    assert time.monotonic() - started < 90
    transport.close()
