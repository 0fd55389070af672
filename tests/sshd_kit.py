"""A private OpenSSH server on loopback, for the contract tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from courier_kit import free_port

from peer_sync.identity import generate_key

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Sshd:
    """Where it listens and who may log in."""

    port: int
    host_key: str
    login_key: Path
    user: str

    def address(self, folder: Path) -> str:
        """The address of a folder behind this server."""
        return f"sftp://{self.user}@127.0.0.1:{self.port}{folder}"


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """Start it and end it."""
    folder.mkdir()
    port = free_port()
    host_key = generate_key(folder / "host")
    login = generate_key(folder / "login")
    (folder / "authorized").write_text(login + "\n")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPermitRootLogin prohibit-password\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\nLogLevel ERROR\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        _wait_for(port)
        yield Sshd(port, host_key, folder / "login", getpass.getuser())
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd did not start")
