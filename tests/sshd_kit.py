"""OpenSSH's own programs as private processes: a server on loopback, an agent."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from courier_kit import free_port, wait_for

from peer_sync.identity import generate_key

SSH = shutil.which("ssh")
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
def running_sshd(folder: Path, more: str = "") -> Iterator[Sshd]:
    """A server for the current user, with one key and ``more`` configuration; start it and end it."""
    folder.mkdir()
    login = generate_key(folder / "login")
    (folder / "authorized").write_text(login + "\n")
    options = (
        f"AuthorizedKeysFile {folder / 'authorized'}\nPermitRootLogin prohibit-password\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n{more}\n"
    )
    with serving(folder, options) as (port, host_key):
        yield Sshd(port, host_key, folder / "login", getpass.getuser())


@contextmanager
def serving(folder: Path, options: str) -> Iterator[tuple[int, str]]:
    """A server with these lines of configuration; yields its port and its host key."""
    port = free_port()
    host_key = generate_key(folder / "host")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
        f"UsePAM no\nLogLevel ERROR\nSubsystem sftp internal-sftp\n{options}"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_for(lambda: _answers(port) or _has_ended(process, folder / "log"))
        yield port, host_key
    finally:
        process.terminate()
        process.wait(60)


@dataclass(frozen=True)
class Agent:
    """An ssh-agent, and the passphrase that is typed for whoever asks."""

    socket: Path
    askpass: Path

    def run(self, *arguments: str | Path) -> None:
        """ssh-add, which gets the passphrase from a program, because nobody sits at a terminal."""
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket), "SSH_ASKPASS": str(self.askpass)}
        done = subprocess.run(
            ["ssh-add", *map(str, arguments)],
            env={**environment, "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running_agent(folder: Path, passphrase: str) -> Iterator[Agent]:
    """An agent without keys; start it and end it."""
    agent = Agent(folder / "agent", folder / "askpass")
    agent.askpass.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
    agent.askpass.chmod(0o700)
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent.socket)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: _takes_in(agent.socket))
        yield agent
    finally:
        process.terminate()
        process.wait(60)


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _has_ended(process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    return False


def _takes_in(path: Path) -> bool:
    """Whether somebody listens: its file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
