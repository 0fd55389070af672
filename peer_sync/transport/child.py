"""The system's ssh as a child process that carries the SFTP session."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import paramiko

from peer_sync.identity import check_site_key
from peer_sync.transport.connection import Keeper
from peer_sync.transport.failures import FORBIDDEN, HostError
from peer_sync.transport.hosts import Host, Way
from peer_sync.transport.session import BoundedClient
from peer_sync.transport.ssh_command import Files, check, command

MAX_SAID_BYTES = 64 * 1024
MAX_SAID_CHARACTERS = 200
PIECE_BYTES = 4096
END_SECONDS = 2.0
JUMP_SECONDS = 0.5
WRONG_KEY = re.compile(r"^Host key verification failed|no matching host key type found", re.MULTILINE)
REFUSED = re.compile(r": Permission denied \(|Too many authentication failures")
UNREACHED = "open failed: connect failed"
NOT_ALLOWED = "open failed: administratively prohibited"
NO_GREETING = re.compile(r"exchange_identification: |Connection (closed|reset) by UNKNOWN port")
LOST = (EOFError, ConnectionError, paramiko.SSHException)
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


class ChildConnection:
    """A `Connection` by the system's ssh.

    Args:
        way: to whom, and through whom.

    Raises:
        ConfigError: there is no ssh, or it cannot take the names on this way.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._ssh = check(way)
        self._keeper = Keeper()
        self._child: Child | None = None
        self._client: BoundedClient | None = None

    def client(self) -> BoundedClient:
        """See `Connection`."""
        if self._client is None:
            key_line, _ = check_site_key(self._way.private_key, self._way.key_line)
            child = self._child = self._keeper.keep(Child(self._ssh, self._way, key_line))
            client = BoundedClient(child)
            client.ask_limits()
            child.settle(self._way.patience.silence_seconds)
            self._client = client
        return self._client

    def explained(self, error: Exception) -> HostError:
        """See `Connection`."""
        peer, jump = self._way.peer, self._way.jump
        if self._child is None or not isinstance(error, LOST):
            return HostError(peer, error)
        at_jump, at_peer = self._child.last_words()
        if self._client is not None:
            host, said = (jump, at_jump) if jump and at_jump else (peer, at_peer)
            return _with_words(host, said, error)
        if jump is not None and at_jump and (not at_peer or NO_GREETING.search(at_peer)):
            return _verdict(peer if UNREACHED in at_jump else jump, at_jump, error)
        return _verdict(peer, at_peer, error)

    def close(self) -> None:
        """See `Connection`."""
        self._keeper.close()


class Child:
    """A running ssh, which behaves like a channel of the library.

    Args:
        ssh: the program.
        way: where to.
        key_line: the public line of our key.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, ssh: str, way: Way, key_line: str) -> None:
        with ExitStack() as made:
            files = Files(Path(made.enter_context(tempfile.TemporaryDirectory(prefix="nnunet-gml-"))))
            files.write(way, key_line)
            self._jump_errors = os.open(files.jump_errors, os.O_RDONLY | os.O_NONBLOCK)
            made.callback(os.close, self._jump_errors)
            self._socket, theirs = map(made.enter_context, socket.socketpair())
            self._process = _started(command(ssh, way, files), theirs, needs_shell=way.jump is not None)
            made.callback(_end, self._process)
            theirs.close()
            self._socket.settimeout(way.patience.connect_seconds + way.patience.login_seconds)
            self._made = made.pop_all()
        self._jump_seconds = JUMP_SECONDS if way.jump else 0.0
        self._words: tuple[str, str] | None = None
        self._guard = threading.Lock()

    def settle(self, silence_seconds: float) -> None:
        """The session stands: wait only so long for its next bytes, and forget what was said before."""
        with self._guard:
            if self._words is None:
                self._socket.settimeout(silence_seconds)
                self._heard(0)

    def recv(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end. Raises OSError."""
        return self._socket.recv(count)

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``; returns how much. Raises OSError."""
        return self._socket.send(data)

    def get_name(self) -> str:
        """For the library's log."""
        return "ssh"

    def last_words(self) -> tuple[str, str]:
        """What was said on standard error before the end: by the ssh to the jump host, and to the peer."""
        with self._guard:
            if self._words is None:
                self._words = self._heard(END_SECONDS)
            return self._words

    def close(self) -> None:
        """End it and all that it started."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._guard:
            self._words = self._words or self._heard(0)
            self._made.close()

    def _heard(self, seconds: float) -> tuple[str, str]:
        """Both standard errors, to their end if that comes within ``seconds``."""
        stderr = self._process.stderr
        at_peer = _said(stderr.fileno(), seconds) if stderr else ""
        return _said(self._jump_errors, min(seconds, self._jump_seconds)), at_peer


def _started(arguments: list[str], end: socket.socket, needs_shell: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments,
        stdin=end.fileno(),
        stdout=end.fileno(),
        stderr=subprocess.PIPE,
        env={**os.environ, "SHELL": "/bin/sh"} if needs_shell else None,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group, first kindly; no zombie is left, and none was buried before."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
            break
    if process.stderr:
        process.stderr.close()


def _said(descriptor: int, seconds: float) -> str:
    """What is said until the end, or until ``seconds`` are over."""
    text, deadline, waiting = b"", time.monotonic() + seconds, select.poll()
    waiting.register(descriptor, select.POLLIN)
    while len(text) < MAX_SAID_BYTES and waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
        piece = os.read(descriptor, PIECE_BYTES)
        if not piece:
            break
        text += piece
    return text.decode(errors="replace").strip()


def _verdict(host: Host, said: str, error: Exception) -> HostError:
    """Why there never was a session. Raises `RejectedError`."""
    if WRONG_KEY.search(said):
        shown = FINGERPRINT.search(said)
        raise host.wrong_key(shown[0] if shown else repr(said[-MAX_SAID_CHARACTERS:])) from error
    if REFUSED.search(said):
        return HostError(host, paramiko.AuthenticationException(said[-MAX_SAID_CHARACTERS:]))
    if NOT_ALLOWED in said:
        return HostError(host, paramiko.ChannelException(FORBIDDEN, said[-MAX_SAID_CHARACTERS:]))
    return _with_words(host, said, error)


def _with_words(host: Host, said: str, error: Exception) -> HostError:
    return HostError(host, paramiko.SSHException(said[-MAX_SAID_CHARACTERS:]) if said else error)
