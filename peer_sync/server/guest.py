"""One connection to the embedded server: who may come in, and how much it may open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import paramiko
from paramiko import common

from peer_sync.ssh import BoundedTransport

log = logging.getLogger(__name__)

MAX_CHANNELS = 4


class Guest(paramiko.ServerInterface):
    """One connection: lets in a federation's key and nothing but SFTP.

    Args:
        transport: the connection.
        keys: names of the sites by ``TYPE BASE64`` of their keys.
        address: where it comes from.
    """

    def __init__(self, transport: BoundedTransport, keys: dict[str, str], address: str) -> None:
        self.transport = transport
        self.keys = keys
        self.address = address
        self.started = self.last_seen = time.monotonic()
        self.peer = ""
        self.channels = 0
        self.sessions: dict[int, Callable[[], int] | None] = {}
        self.opening = threading.Lock()

    @property
    def known(self) -> bool:
        """Whether it has logged in."""
        return bool(self.transport.is_authenticated())

    @property
    def active(self) -> bool:
        """Whether it is still there."""
        return bool(self.transport.is_active())

    def close(self) -> None:
        """End it."""
        self.transport.close()

    def get_allowed_auths(self, username: str) -> str:
        """Keys only."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """Only those of the federation."""
        self.peer = self.keys.get(f"{key.get_name()} {key.get_base64()}", "")
        if not self.peer:
            log.info("%s: key of nobody known", self.address)
        return common.AUTH_SUCCESSFUL if self.peer else common.AUTH_FAILED

    def logged_in(self) -> None:
        """The key was proven, not only shown."""
        log.info("%s: key of %s", self.address, self.peer)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Sessions only, and few."""
        if kind != "session":
            return common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        self.channels += 1
        if self.channels > MAX_CHANNELS:
            return common.OPEN_FAILED_RESOURCE_SHORTAGE
        return common.OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        """One on each channel, because each is a thread."""
        number = channel.get_id()
        if number in self.sessions:
            return False
        self.sessions[number] = None
        return bool(super().check_channel_subsystem_request(channel, name))

    def handles(self) -> int:
        """How many files and folders this connection has open, on all its channels."""
        return sum(handles() for handles in list(self.sessions.values()) if handles)
