"""One connection to the embedded server: who may come in, and how much it may open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import paramiko
from paramiko import common

from peer_sync.errors import quoted
from peer_sync.server import access
from peer_sync.ssh import BoundedTransport

MAX_CHANNELS = 4


class Guest(paramiko.ServerInterface):
    """One connection: lets in a federation's key and nothing but SFTP.

    Args:
        transport: the connection.
        keys: names of the sites by ``TYPE BASE64`` of their keys; it may change meanwhile.
        address: where it comes from.
    """

    def __init__(self, transport: BoundedTransport, keys: Mapping[str, str], address: str) -> None:
        self.transport = transport
        self.keys = keys
        self.address = address
        self.started = self.last_seen = time.monotonic()
        self.peer = ""
        self.channels = 0
        self.sessions: dict[int, Callable[[], int] | None] = {}
        self.opening = threading.Lock()
        self._key = self._shown = ""

    @property
    def known(self) -> bool:
        """Whether it has logged in."""
        return bool(self.peer)

    @property
    def active(self) -> bool:
        """Whether it is still there."""
        return bool(self.transport.is_active())

    @property
    def welcome(self) -> bool:
        """Whether the key it has logged in with is still that of its site."""
        return not self.known or self.keys.get(self._key) == self.peer

    def close(self) -> None:
        """End it."""
        self.transport.close()

    def note(self, level: int, text: str, *values: object) -> None:
        """A line about it in the access log."""
        access.note(level, self.address, self.peer, text, *values)

    def ending(self) -> str:
        """Why it is not there any more, as far as that is known."""
        error = self.transport.get_exception()
        return quoted(error) if isinstance(error, paramiko.SSHException) else "hung up"

    def get_allowed_auths(self, username: str) -> str:
        """Keys only."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """Only those of the federation."""
        self._key = f"{key.get_name()} {key.get_base64()}"
        self._shown = self.keys.get(self._key, "")
        if not self._shown:
            self.note(logging.INFO, "refused, a key of nobody in the federation: %s", key.fingerprint)
        return common.AUTH_SUCCESSFUL if self._shown else common.AUTH_FAILED

    def logged_in(self) -> None:
        """The key was proven, not only shown."""
        self.peer = self._shown
        self.last_seen = time.monotonic()
        self.note(logging.INFO, "logged in")

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Sessions only, and few."""
        if kind != "session":
            self.note(logging.WARNING, "denied, a channel that is no session: %s", quoted(kind))
            return common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        self.channels += 1
        if self.channels > MAX_CHANNELS:
            self.note(logging.WARNING, "denied, more than %d channels", MAX_CHANNELS)
            return common.OPEN_FAILED_RESOURCE_SHORTAGE
        return common.OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        """One on each channel, because each is a thread."""
        number = channel.get_id()
        if number in self.sessions:
            return False
        self.sessions[number] = None
        return bool(super().check_channel_subsystem_request(channel, name))

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        """None."""
        self.note(logging.WARNING, "denied, a shell")
        return False

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        """None."""
        self.note(logging.WARNING, "denied, a command: %s", quoted(command.decode(errors="replace")))
        return False

    def check_port_forward_request(self, address: str, port: int) -> bool:
        """None."""
        self.note(logging.WARNING, "denied, a forwarded port")
        return False

    def handles(self) -> int:
        """How many files and folders this connection has open, on all its channels."""
        return sum(handles() for handles in list(self.sessions.values()) if handles)
