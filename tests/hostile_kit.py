"""An SFTP server without manners, for the client's tests: real SSH, wrong answers."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paramiko
from paramiko import common, sftp

logging.getLogger("paramiko").addHandler(logging.NullHandler())

Reply = Callable[["Session", int, int], None]


class _Anyone(paramiko.ServerInterface):
    """Lets everybody in."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return common.OPEN_SUCCEEDED


class Session(paramiko.SFTPServer):
    """Answers every request with what the test gave."""

    def __init__(self, channel, name, server, reply: Reply) -> None:
        super().__init__(channel, name, server)
        self.reply = reply

    def _process(self, kind: int, number: int, message: paramiko.Message) -> None:
        self.reply(self, kind, number)

    def send(self, kind: int, number: int, *items: int | str | bytes) -> None:
        """One answer, whatever it is."""
        self._response(number, kind, *items)


@contextmanager
def hostile_server(
    host_key: str, reply: Reply = lambda *_: None, banner: str = "SSH-2.0-peer_sync_1"
) -> Iterator[int]:
    """Its port; a connection at a time."""
    ended = threading.Event()
    transports: list[paramiko.Transport] = []

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(sock)
            transport.local_version = banner
            transport.add_server_key(paramiko.Ed25519Key(filename=host_key))
            transport.set_subsystem_handler("sftp", Session, reply)
            transports.append(transport)
            transport.start_server(event=threading.Event(), server=_Anyone())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            for transport in transports:
                transport.close()
            thread.join(60)


def names_with_attributes(session: Session, kind: int, number: int) -> None:
    """A listing of one file that claims four billion extended attributes."""
    if kind == sftp.CMD_OPENDIR:
        session.send(sftp.CMD_HANDLE, number, "handle")
    else:
        session.send(sftp.CMD_NAME, number, 1, "a", "a", 0x80000000, 0xFFFFFFFF)


def no_names(session: Session, kind: int, number: int) -> None:
    """A listing that never ends and never names anything."""
    if kind == sftp.CMD_OPENDIR:
        session.send(sftp.CMD_HANDLE, number, "handle")
    else:
        session.send(sftp.CMD_NAME, number, 0)


def forged_text(session: Session, kind: int, number: int) -> None:
    """A status whose text looks like a line of our log."""
    session.send(sftp.CMD_STATUS, number, 4, "no\n2026-11-21: round 9: all is well\x1b[2J" + "A" * 5000, "")


def huge_answer(session: Session, kind: int, number: int) -> None:
    """Sixteen megabytes where a status is due."""
    session.send(sftp.CMD_STATUS, number, 4, b"A" * 16_000_000, "")
