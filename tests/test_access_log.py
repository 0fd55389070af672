"""server.log: what a site can later tell about its guests."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import time

import paramiko
import pytest
from courier_kit import wait_for

from peer_sync.identity import generate_key
from peer_sync.names import manifest_name
from peer_sync.server.access import LINES_AT_ONCE, SECONDS_PER_LINE, OneLine, Quota
from peer_sync.server.process import ServerProcess

NAME = manifest_name(1)


@pytest.fixture
def logged(served_sites):
    """South's server process; call it to end the server and get its log without times."""
    south = served_sites["south"]
    (south.folder / "outbox").mkdir(parents=True)
    (south.folder / "outbox" / NAME).write_bytes(b"x" * 100_000)
    process = ServerProcess(south)

    def lines() -> list[str]:
        process.stop()
        text = (south.folder / "server.log").read_text()
        return [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", "", line) for line in text.splitlines()]

    yield lines
    process.stop()


def log_of(site) -> str:
    """The log as it is now."""
    path = site.folder / "server.log"
    return path.read_text() if path.exists() else ""


def connect(site, key, wanted=()):
    """A raw connection that tries to log in."""
    transport = paramiko.Transport(socket.create_connection(site.listen, timeout=60))
    try:
        transport.start_client(timeout=60)
        transport.auth_publickey("anyone", paramiko.Ed25519Key(filename=str(key)))
        for work in wanted:
            work(transport)
    finally:
        transport.close()


def test_a_peer_leaves_a_trace_with_its_name(logged, served_sites):
    """Login, file, bytes read and seconds, what was denied, and the end."""

    def read(transport) -> None:
        sftp = paramiko.SFTPClient.from_transport(transport)
        with sftp.open(NAME) as file:
            file.read(60_000)
        for deny in (
            lambda: sftp.remove(NAME),
            lambda: sftp.open(NAME, "w"),
            lambda: sftp.open("/etc/passwd"),
        ):
            with pytest.raises(OSError):
                deny()

    def run(transport) -> None:
        with pytest.raises(paramiko.SSHException):
            transport.open_session().exec_command("id; rm -rf /")

    connect(served_sites["south"], served_sites["north"].private_key, [read, run])
    wait_for(lambda: "left after" in log_of(served_sites["south"]))
    lines = logged()

    assert lines[0] == "127.0.0.1 north: logged in"
    assert lines[1] == f"127.0.0.1 north: opened {NAME}"
    assert re.fullmatch(rf"127\.0\.0\.1 north: read {NAME}: \d{{5,6}} bytes in \d+\.\d\d s", lines[2])
    assert lines[3:6] == [
        "127.0.0.1 north: denied, remove",
        f"127.0.0.1 north: denied, writing: '{NAME}'",
        "127.0.0.1 north: denied, opening '/etc/passwd': no such file",
    ]
    assert lines[6] == "127.0.0.1 north: denied, a command: 'id; rm -rf /'"
    assert re.fullmatch(r"127\.0\.0\.1 north: left after \d+\.\d s: hung up", lines[7])


def test_a_stranger_leaves_a_trace_without_one(logged, served_sites, tmp_path):
    """The fingerprint is the one that `ssh-keygen -l` shows."""
    generate_key(tmp_path / "stranger")
    key = paramiko.Ed25519Key(filename=str(tmp_path / "stranger"))

    with pytest.raises(paramiko.AuthenticationException):
        connect(served_sites["south"], tmp_path / "stranger")
    lines = logged()

    assert lines[0] == f"127.0.0.1 stranger: refused, a key of nobody in the federation: {key.fingerprint}"


def test_a_stranger_cannot_fill_the_log(logged, served_sites):
    """Three hundred connections with greetings of many lines: a hundred lines, and peers are still heard."""
    started = time.monotonic()
    for _ in range(300):
        with socket.create_connection(served_sites["south"].listen) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n2026 127.0.0.1 north: logged in\r\n\x1b[2J\r\n")
    connect(served_sites["south"], served_sites["north"].private_key)
    wait_for(lambda: re.search(r"^\S+ 127\.0\.0\.1 north: logged in$", log_of(served_sites["south"]), re.M))
    lines = logged()

    assert "127.0.0.1 north: logged in" in lines
    trickle = (time.monotonic() - started) / SECONDS_PER_LINE
    assert sum("stranger" in line for line in lines) <= LINES_AT_ONCE + trickle
    assert all(re.match(r"127\.0\.0\.1 (north|stranger): ", line) for line in lines)


def record(peer: str = "") -> logging.LogRecord:
    """A line about a peer."""
    return logging.makeLogRecord({"msg": "a line", "peer": peer})


def test_the_quota_by_hand():
    """A burst, then one line in five seconds; each peer has its own, and all strangers share one."""
    now = [0.0]
    quota = Quota(clock=lambda: now[0])

    assert sum(quota.filter(record()) for _ in range(LINES_AT_ONCE + 7)) == LINES_AT_ONCE
    assert quota.filter(record("north"))
    now[0] += SECONDS_PER_LINE
    late = record()
    assert quota.filter(late)
    assert late.getMessage() == "a line (7 lines before this one were left out)"
    assert not quota.filter(record())


def test_one_line_counts_once_for_all_handlers():
    """Console and file ask about the same record."""
    quota = Quota(clock=lambda: 0.0)
    lines = [record() for _ in range(LINES_AT_ONCE)]

    assert all(quota.filter(line) and quota.filter(line) for line in lines)
    assert not quota.filter(record())


FILL = """
import sys
from pathlib import Path
from peer_sync.server import access
access.FILE_BYTES = 10_000
access.write_to(Path(sys.argv[1]), console=False)
for number in range(1000):
    access.note(20, "127.0.0.1", f"peer-{number}", "line %d", number)
"""


def test_the_log_rotates(tmp_path):
    """Five files, and the newest lines are kept."""
    subprocess.run([sys.executable, "-c", FILL, str(tmp_path / "server.log")], check=True)

    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["server.log", *(f"server.log.{n}" for n in range(1, 5))]
    assert all(path.stat().st_size <= 10_000 for path in files)
    assert files[0].read_text().endswith("line 999\n")


def test_a_line_of_the_log_stays_a_line():
    """Whatever a stranger's greeting was."""
    hostile = logging.makeLogRecord(
        {"msg": "Indecipherable: %s", "args": ("\n2026 key of north\x1b[2J" * 90,)}
    )

    line = OneLine("%(message)s").format(hostile)

    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 1000
