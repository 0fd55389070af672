"""Through a jump host: two real SSH servers, each with its own pinned key."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from courier_kit import free_port, wait_for
from sshd_kit import SSH, SSHD, Sshd, running_sshd

from peer_sync.address import Patience
from peer_sync.errors import LoginError, NotFoundError, RejectedError, TransportError
from peer_sync.identity import generate_key
from peer_sync.names import payload_name
from peer_sync.site import Jump
from peer_sync.transport.connection import Tunnel
from peer_sync.transport.session import FileRequests
from peer_sync.transport.sftp import SftpTransport

NAME = payload_name(1, "a" * 64)
CONTENT = os.urandom(3_000_001)
HASTE = Patience(connect_seconds=5, login_seconds=5, silence_seconds=5, deadline_seconds=20)
"""For hosts that do not answer; whoever does answer is given the usual time."""

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")


@dataclass(frozen=True)
class Two:
    """A jump host, and a peer behind it, which know the same key."""

    first: Sshd
    second: Sshd
    folder: Path
    carrier: str

    def way(self, **changes: object) -> SftpTransport:
        """To the peer's folder; whatever is in ``changes`` is another than it should be."""
        facts = {
            "jump_port": self.first.port,
            "jump_host_key": self.first.host_key,
            "jump_user": self.first.user,
            "port": self.second.port,
            "host_key": self.second.host_key,
            "user": self.second.user,
            "key": self.second.login_key,
            "patience": None,
        } | changes
        jump = Jump(
            f"sftp://{facts['jump_user']}@127.0.0.1:{facts['jump_port']}", facts["jump_host_key"], None
        )
        address = f"sftp://{facts['user']}@127.0.0.1:{facts['port']}{self.folder}"
        return SftpTransport(
            address,
            facts["host_key"],
            facts["key"],
            "nobody",
            facts["patience"],
            carrier=self.carrier,
            jump=jump,
        )


@pytest.fixture(params=["paramiko", "ssh"])
def carrier(request) -> str:
    """Each carrier in turn."""
    if request.param == "ssh" and SSH is None:
        pytest.skip("ssh is not installed")
    return request.param


@pytest.fixture
def two(tmp_path, carrier):
    """Both servers, which greet with words of their own, and a file behind the second."""
    folder = tmp_path / "outbox"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    (tmp_path / "banner").write_text("Authorised use only.\n")
    banner = f"Banner {tmp_path / 'banner'}"
    with (
        running_sshd(tmp_path / "first", banner) as first,
        running_sshd(tmp_path / "second", banner) as second,
    ):
        know_each_other(tmp_path)
        yield Two(first, second, folder, carrier)


def know_each_other(folder: Path) -> None:
    """The key of the second server's user may log in at the first."""
    (folder / "first" / "authorized").write_text((folder / "second" / "login.pub").read_text())


@pytest.fixture
def way(two):
    """To the peer, as it should be."""
    made = two.way()
    yield made
    made.close()


def failure(transport: SftpTransport) -> TransportError:
    """What the first call says."""
    with pytest.raises(TransportError) as caught:
        transport.names()
    transport.close()
    return caught.value


def test_everything_works_through_a_jump_host(way, two, tmp_path):
    """List, get, put and remove, with the content compared."""
    assert way.names() == [NAME]
    assert way.get(NAME, tmp_path / "target", len(CONTENT)) == len(CONTENT)
    way.put(tmp_path / "target", "copy")

    assert (two.folder / "copy").read_bytes() == CONTENT
    way.remove("copy")
    assert way.names() == [NAME]


def test_an_embedded_server_behind_a_jump_host(served_sites, server, carrier, tmp_path):
    """North reads south's outbox through OpenSSH."""
    north, south = served_sites["north"], served_sites["south"]
    (south.folder / "outbox" / NAME).write_bytes(CONTENT)
    with running_sshd(tmp_path / "first") as first:
        (tmp_path / "first" / "authorized").write_text(north.member.public_key)
        jump = Jump(f"sftp://{first.user}@127.0.0.1:{first.port}", first.host_key, None)
        address, host_key = south.member.address, south.member.host_key
        way = SftpTransport(address, host_key, north.private_key, "north", carrier=carrier, jump=jump)

        way.get(NAME, tmp_path / "target", len(CONTENT))
        way.close()

    assert (tmp_path / "target").read_bytes() == CONTENT


def test_a_missing_file_behind_a_jump_host_is_not_found(way, tmp_path):
    """As everywhere."""
    with pytest.raises(NotFoundError):
        way.get("nothing", tmp_path / "target", 10)


@pytest.mark.parametrize(("which", "title"), [("jump_host_key", "the jump host sftp"), ("host_key", "sftp")])
def test_either_host_key_is_pinned(two, tmp_path, which, title):
    """The message says whose is another."""
    transport = two.way(**{which: generate_key(tmp_path / "other")})

    with pytest.raises(RejectedError, match=f"host key of {title}://") as caught:
        transport.names()
    assert caught.value.rule == "host-key"
    transport.close()


@pytest.mark.parametrize(("which", "title"), [("jump_user", "the jump host sftp"), ("user", "sftp")])
def test_either_host_may_refuse_the_login(two, which, title):
    """The message says which did."""
    error = failure(two.way(**{which: "stranger"}))

    assert isinstance(error, LoginError)
    assert f"at {title}://" in str(error)
    assert "expected a login as 'stranger'" in str(error)


@pytest.mark.parametrize(("which", "title"), [("jump_port", "the jump host sftp"), ("port", "sftp")])
def test_either_host_may_not_be_there(two, which, title):
    """The message says which is not."""
    port = free_port()

    error = failure(two.way(**{which: port}))

    assert f"at {title}://127.0.0.1:{port}" in str(error)


@pytest.mark.parametrize(("which", "title"), [("jump_port", "the jump host sftp"), ("port", "sftp")])
def test_either_host_may_be_silent(two, which, title):
    """The time is limited for both."""
    if two.carrier == "ssh":
        title = "sftp"
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        error = failure(two.way(**{which: deaf.getsockname()[1], "patience": HASTE}))

    assert f"at {title}://" in str(error)
    assert time.monotonic() - started < 60


def test_a_jump_host_that_forbids_it_is_named(tmp_path, carrier):
    """With what has to be changed there."""
    with (
        running_sshd(tmp_path / "first", "AllowTcpForwarding no") as first,
        running_sshd(tmp_path / "second") as second,
    ):
        know_each_other(tmp_path)
        error = failure(Two(first, second, tmp_path, carrier).way())

    assert f"at the jump host sftp://127.0.0.1:{first.port}: expected a way on from there" in str(error)
    assert "AllowTcpForwarding" in error.hint


def test_close_ends_both_connections(way, two):
    """Nobody is left logged in, at either host."""
    way.names()
    assert all(sessions(sshd) for sshd in (two.first, two.second))

    way.close()

    wait_for(lambda: not any(sessions(sshd) for sshd in (two.first, two.second)))


def sessions(sshd: Sshd) -> int:
    """Connections that a server has."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        found += int(local.split(":")[1], 16) == sshd.port and state == "01"
    return found


@pytest.mark.parametrize(("name", "title"), [("first", "the jump host sftp"), ("second", "sftp")])
def test_a_transfer_ends_with_either_connection(two, monkeypatch, tmp_path, name, title):
    """Killed in the middle: at once, and the next call goes on; paramiko can tell which host it was."""
    sshd, answer, asked = getattr(two, name), FileRequests.answer, []
    (two.folder / NAME).write_bytes(bytes(60_000_000))
    way = two.way()

    def killing(self: FileRequests, number: int) -> bytes:
        asked.append(number)
        if len(asked) == 3:
            kill_sessions(sshd)
        return answer(self, number)

    monkeypatch.setattr(FileRequests, "answer", killing)
    started = time.monotonic()
    with pytest.raises(TransportError) as caught:
        way.get(NAME, tmp_path / "target", 10**8)

    assert time.monotonic() - started < Patience().silence_seconds
    if two.carrier == "paramiko":
        assert f"at {title}://" in str(caught.value)
    assert "Authorised" not in str(caught.value)
    assert way.get(NAME, tmp_path / "target", 10**8) == 60_000_000
    way.close()


def kill_sessions(sshd: Sshd) -> None:
    """Kill what serves this server's connections, not the server itself."""
    config = str(sshd.login_key.parent / "config").encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if config in (process / "cmdline").read_bytes():
                children = (process / "task" / process.name / "children").read_text()
                for number in map(int, children.split()):
                    os.kill(number, signal.SIGKILL)


def test_the_tunnel_closes_where_nothing_is_left_to_close():
    """The library's thread would end there with a traceback, and whoever waits for it would wait on."""

    class Dead:
        recv = send = settimeout = None
        closed = True

        def close(self) -> None:
            raise EOFError

    Tunnel(Dead()).close()


def test_close_by_another_thread_while_it_connects(two):
    """The first host never speaks; the call ends long before its time."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        way = two.way(jump_port=deaf.getsockname()[1], patience=Patience())

        def close() -> None:
            with deaf.accept()[0]:
                way.close()

        threading.Thread(target=close, daemon=True).start()
        started = time.monotonic()

        with pytest.raises(TransportError):
            way.names()
    assert time.monotonic() - started < 15
