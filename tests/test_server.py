"""Attacks on the embedded server, and its life."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from courier_kit import running_server
from paramiko.sftp import CMD_DATA, CMD_EXTENDED, CMD_READ, CMD_WRITE, int64

from peer_sync.errors import ConfigError
from peer_sync.identity import generate_key
from peer_sync.names import manifest_name
from peer_sync.server import embedded as server_module
from peer_sync.server.answering import MAX_HANDLES
from peer_sync.server.embedded import Server
from peer_sync.server.process import ServerProcess
from peer_sync.server.reception import Limits, Reception, must_go, overdue, surplus

NAME = manifest_name(1)


@contextmanager
def raw_client(site, key: Path, **options):
    """A client without any of our client's care."""
    sock = socket.create_connection(site.listen, timeout=60)
    transport = paramiko.Transport(sock, **options)
    try:
        transport.start_client(timeout=60)
        transport.auth_publickey("anyone", paramiko.Ed25519Key(filename=str(key)))
        yield transport
    finally:
        transport.close()


@pytest.fixture
def south(served_sites, server):
    """The attacked site; a file is in its outbox and a secret beside it."""
    site = served_sites["south"]
    (site.folder / "outbox" / NAME).write_bytes(b"x" * 100_000)
    (site.folder / "secret").write_bytes(b"secret")
    return site


@pytest.fixture
def attacker(served_sites, south):
    """A peer with a good key and bad intentions."""
    with raw_client(south, served_sites["north"].private_key) as transport:
        yield paramiko.SFTPClient.from_transport(transport)


ESCAPES = [
    "../secret",
    "/../secret",
    "/outbox/../../secret",
    "//secret",
    "./../secret",
    "/etc/passwd",
    "..",
    f"/./{NAME}",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leaves_the_outbox(attacker, path):
    """Neither for reading nor for looking; not even a detour to a good file."""
    with pytest.raises(FileNotFoundError):
        attacker.open(path)
    with pytest.raises(FileNotFoundError):
        attacker.stat(path)
    with pytest.raises(OSError):
        attacker.listdir("/..")


def test_a_link_is_neither_listed_nor_followed(attacker, south):
    """Whoever planted it."""
    (south.folder / "outbox" / manifest_name(2)).symlink_to("../secret")

    assert attacker.listdir() == [NAME]
    with pytest.raises(FileNotFoundError):
        attacker.open(manifest_name(2))
    with pytest.raises(FileNotFoundError):
        attacker.stat(manifest_name(2))


def test_a_pipe_does_not_hang_the_server(attacker, south):
    """Opening one would wait for a writer."""
    os.mkfifo(south.folder / "outbox" / manifest_name(2))

    with pytest.raises(FileNotFoundError):
        attacker.open(manifest_name(2))
    assert attacker.listdir() == [NAME]


def test_other_files_in_the_outbox_are_not_served(attacker, south):
    """Only the three kinds of published files are."""
    for name in (".part-1", "notes.txt"):
        (south.folder / "outbox" / name).write_bytes(b"private")

        with pytest.raises(FileNotFoundError):
            attacker.open(name)
    assert attacker.listdir() == [NAME]


CHANGES = {
    "open to write": lambda sftp: sftp.open(NAME, "w"),
    "open to append": lambda sftp: sftp.open(NAME, "a"),
    "open to read and write": lambda sftp: sftp.open(NAME, "r+"),
    "create": lambda sftp: sftp.open(manifest_name(9), "x"),
    "rename": lambda sftp: sftp.rename(NAME, manifest_name(9)),
    "posix_rename": lambda sftp: sftp.posix_rename(NAME, manifest_name(9)),
    "remove": lambda sftp: sftp.remove(NAME),
    "mkdir": lambda sftp: sftp.mkdir("folder"),
    "rmdir": lambda sftp: sftp.rmdir("."),
    "symlink": lambda sftp: sftp.symlink("../secret", manifest_name(9)),
    "readlink": lambda sftp: sftp.readlink(NAME),
    "truncate": lambda sftp: sftp.truncate(NAME, 50_000),
    "chmod": lambda sftp: sftp.chmod(NAME, 0o777),
    "utime": lambda sftp: sftp.utime(NAME, (1, 1)),
    "truncate open file": lambda sftp: sftp.open(NAME).truncate(0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_can_be_changed(attacker, south, change):
    """Every request that changes something is denied, and nothing has changed."""
    before = (south.folder / "outbox" / NAME).stat()

    with pytest.raises(OSError):
        CHANGES[change](attacker)

    after = (south.folder / "outbox" / NAME).stat()
    assert [path.name for path in (south.folder / "outbox").iterdir()] == [NAME]
    assert (after.st_size, after.st_mtime, after.st_mode) == (before.st_size, before.st_mtime, before.st_mode)


def test_a_write_to_an_open_file_is_denied(attacker, south):
    """Even through a handle that was opened to read."""
    file = attacker.open(NAME)

    with pytest.raises(OSError):
        attacker._request(CMD_WRITE, file.handle, int64(0), b"evil")
    assert (south.folder / "outbox" / NAME).read_bytes() == b"x" * 100_000


def test_a_huge_read_gets_a_small_answer(attacker, south):
    """4 GiB asked, 256 KiB given."""
    (south.folder / "outbox" / NAME).write_bytes(b"x" * 1_000_000)
    file = attacker.open(NAME)

    kind, message = attacker._request(CMD_READ, file.handle, int64(0), 0xFFFFFFFF)

    assert kind == CMD_DATA
    assert len(message.get_binary()) == 256 * 1024


def test_a_read_far_behind_the_end_is_the_end(attacker):
    """Offsets up to 64 bits do no harm."""
    file = attacker.open(NAME)

    with pytest.raises(EOFError):
        attacker._request(CMD_READ, file.handle, int64(2**64 - 1), 10)


def test_check_file_is_not_there(attacker):
    """It could loop for ever; no extension is answered."""
    file = attacker.open(NAME)

    with pytest.raises(OSError):
        attacker._request(CMD_EXTENDED, "check-file", file.handle, "md5", int64(0), int64(2**62), 0)


def test_handles_are_bounded(attacker):
    """The 17th open file is denied, the others work on."""
    files = [attacker.open(NAME) for _ in range(MAX_HANDLES)]

    with pytest.raises(OSError):
        attacker.open(NAME)
    assert files[0].read(3) == b"xxx"


def test_a_huge_packet_ends_the_session(attacker, south, served_sites):
    """It is not read into memory; the next connection works."""
    with pytest.raises((OSError, EOFError, paramiko.SSHException)):
        attacker._request(CMD_EXTENDED, b"x" * 1_000_000)

    with raw_client(south, served_sites["north"].private_key) as transport:
        assert paramiko.SFTPClient.from_transport(transport).listdir() == [NAME]


def test_the_listing_tells_sizes_and_little_else(attacker):
    """No user, no group, no permissions of ours."""
    (found,) = attacker.listdir_attr()

    assert (found.filename, found.st_size, found.st_uid, found.st_gid) == (NAME, 100_000, None, None)


def test_an_unknown_key_does_not_get_in(south, tmp_path):
    """Only the federation's keys do."""
    generate_key(tmp_path / "stranger")

    with pytest.raises(paramiko.AuthenticationException), raw_client(south, tmp_path / "stranger"):
        pass


@pytest.mark.parametrize("method", ["none", "password"])
def test_no_other_login_is_offered(south, method):
    """Neither without a key nor with a password."""
    sock = socket.create_connection(south.listen, timeout=60)
    transport = paramiko.Transport(sock)
    try:
        transport.start_client(timeout=60)
        with pytest.raises(paramiko.BadAuthenticationType) as caught:
            transport.auth_none("root") if method == "none" else transport.auth_password(
                "root", "root", fallback=False
            )
        assert caught.value.allowed_types == ["publickey"]
    finally:
        transport.close()


def test_there_is_no_shell_and_no_forwarding(south, served_sites):
    """SFTP only."""
    with raw_client(south, served_sites["north"].private_key) as transport:
        with pytest.raises(paramiko.SSHException):
            transport.open_session().exec_command("id")
        with pytest.raises(paramiko.SSHException):
            transport.open_session().invoke_shell()
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1))
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("ciphers", ["aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr"]),
        ("macs", ["hmac-sha2-256", "hmac-sha2-512"]),
    ],
)
def test_weak_algorithms_are_off(south, served_sites, kind, good):
    """A client that knows only the weak ones finds nothing in common."""
    key = served_sites["north"].private_key
    offered = getattr(paramiko.Transport, f"_preferred_{kind}")
    strong = {"ciphers": good, "macs": [*good]}[kind]
    disabled = {kind: strong}
    if kind == "macs":
        disabled["ciphers"] = [name for name in paramiko.Transport._preferred_ciphers if "gcm" in name]

    assert set(strong) < set(offered)
    with (
        pytest.raises((paramiko.SSHException, EOFError)),
        raw_client(south, key, disabled_algorithms=disabled),
    ):
        pass


@pytest.fixture
def strict(served_sites, request):
    """South's server with limits of the test's own."""
    with running_server(Server(served_sites["south"], request.param)):
        yield served_sites["south"]


def limited(**limits):
    """A test whose server has these limits, and those of earnest else."""
    return pytest.mark.parametrize("strict", [Limits(**limits)], indirect=True, ids=[""])


def is_closed(sock: socket.socket, seconds: float = 60) -> bool:
    """Whether the other side hangs up in time."""
    deadline = time.monotonic() + seconds
    sock.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            if not sock.recv(4096):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@limited(login_seconds=1)
def test_who_does_not_log_in_is_sent_away(strict):
    """One second here, thirty in earnest."""
    with socket.create_connection(strict.listen) as sock:
        assert is_closed(sock)


@limited(idle_seconds=1)
def test_who_is_idle_is_sent_away(strict, served_sites):
    """A peer that does not ask for anything loses its place."""
    with raw_client(strict, served_sites["north"].private_key) as transport:
        deadline = time.monotonic() + 60
        while transport.is_active() and time.monotonic() < deadline:
            time.sleep(0.1)

        assert not transport.is_active()


@limited(total=6, per_address=3)
def test_idle_strangers_do_not_keep_a_peer_out(strict, served_sites):
    """More silent connections than there is room for, and still the peer gets in."""
    strangers = [socket.create_connection(strict.listen) for _ in range(8)]
    try:
        with raw_client(strict, served_sites["north"].private_key) as transport:
            assert paramiko.SFTPClient.from_transport(transport).listdir() == []
    finally:
        for sock in strangers:
            sock.close()


class Guest:
    """A connection for the bookkeeping tests."""

    def __init__(
        self, address: str, started: float, known: bool, last_seen: float = 0, peer: str = ""
    ) -> None:
        self.address, self.started, self.known, self.last_seen = address, started, known, last_seen
        self.peer = peer


def test_the_oldest_stranger_makes_room():
    """Of the newcomer's own address first; peers that logged in stay."""
    limits = Limits(total=4, per_address=2)
    peer, old, new = Guest("a", 1, True), Guest("a", 2, False), Guest("b", 3, False)

    assert must_go([peer, old, new], "a", limits) == [old]
    assert must_go([peer, old, new], "b", limits) == []
    assert must_go([peer, peer, new], "a", limits) is None
    assert must_go([peer, old, new, new], "c", limits) == [old]


def test_overdue_by_hand():
    """Login counts from the start, idleness from the last request."""
    limits = Limits(login_seconds=30, idle_seconds=300)
    slow, idle, busy = Guest("a", 0, False), Guest("a", 0, True, 0), Guest("a", 0, True, 100)

    assert overdue([slow, idle, busy], limits, 31) == [slow]
    assert overdue([slow, idle, busy], limits, 301) == [slow, idle]


def test_surplus_by_hand():
    """Of three connections of north the oldest; strangers and other peers do not count."""
    first, second, third = (Guest("a", started, True, peer="north") for started in (1, 2, 3))
    other, stranger = Guest("a", 0, True, peer="east"), Guest("a", 0, False)

    assert surplus([second, first, other, third, stranger], Limits(per_peer=2)) == [first]


def test_no_free_descriptor_does_not_make_the_server_spin(monkeypatch):
    """A rest after each connection that could not be accepted."""
    reception = Reception(("127.0.0.1", 0), lambda sock, address: None, Limits())
    rests: list[float] = []

    class Full:
        def accept(self) -> None:
            raise OSError(24, "Too many open files")

    listener, reception._listener = reception._listener, Full()
    monkeypatch.setattr("peer_sync.server.reception.time.sleep", rests.append)

    reception._admit()

    listener.close()
    assert rests == [0.5]


def test_a_server_without_threads_left_lives_on(monkeypatch, south, served_sites):
    """One guest is lost, the next is let in."""

    def no_thread(self, **_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(server_module.BoundedTransport, "start_server", no_thread)
        with socket.create_connection(south.listen, timeout=60) as sock:
            assert is_closed(sock)

    with raw_client(south, served_sites["north"].private_key) as transport:
        assert transport.is_authenticated()


def test_openssh_can_read_the_outbox(south, served_sites, tmp_path):
    """The `sftp` command of OpenSSH needs nothing of ours."""
    if shutil.which("sftp") is None:
        pytest.skip("sftp is not installed")
    host, port = south.listen
    (tmp_path / "known").write_text(f"[{host}]:{port} {south.member.host_key}\n")
    done = subprocess.run(
        [
            *("sftp", "-b", "-", "-P", str(port), "-i", str(served_sites["north"].private_key)),
            *("-F", "none", "-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "IdentitiesOnly=yes"),
            f"north@{host}",
        ],
        input=f"ls\nget {NAME} {tmp_path / 'target'}\n".encode(),
        capture_output=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target").read_bytes() == b"x" * 100_000


def test_the_process_serves_and_ends_with_its_input(served_sites):
    """It says where it listens; closing its standard input ends it."""
    process = ServerProcess(served_sites["south"])
    assert process.address == "{}:{}".format(*served_sites["south"].listen)
    assert process.running

    process.stop()

    assert not process.running


def test_a_busy_port_is_an_error_at_the_start(served_sites):
    """The sentence names the port and what to do."""
    with socket.create_server(served_sites["south"].listen), pytest.raises(ConfigError) as caught:
        ServerProcess(served_sites["south"])

    assert "expected a free port, found Address already in use" in str(caught.value)
    assert str(served_sites["south"].listen[1]) in str(caught.value)
    assert "listen" in caught.value.hint


PARENT = """
import sys, time
from peer_sync.server.process import ServerProcess
from peer_sync.site import load_site
print(ServerProcess(load_site(sys.argv[1])).pid, flush=True)
time.sleep(60)
"""


def test_a_killed_training_takes_its_server_along(served_sites, tmp_path):
    """kill -9 of the parent frees the port, and a restart works at once."""
    south = served_sites["south"]
    root = Path(server_module.__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(south.path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as parent:
        assert int(parent.stdout.readline()) > 0
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)

        again = ServerProcess(south)

    assert again.running
    again.stop()
