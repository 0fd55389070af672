"""Where a site's outbox can be read, whose server that is, and how long to wait for it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from peer_sync import names
from peer_sync.errors import ConfigError
from peer_sync.identity import is_public_line

DEFAULT_PORT = 22
HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
FOLDER = "folder:"


@dataclass(frozen=True)
class Patience:
    """How long to wait for what.

    Attributes:
        connect_seconds: until the TCP connection stands.
        login_seconds: each for banner, key exchange and login.
        silence_seconds: between two packets.
        deadline_seconds: for one call, not counting the time in which it moves a file's data.
        min_bytes_per_second: how much data has to move ...
        rate_seconds: ... over any stretch of this length.
    """

    connect_seconds: float = 15
    login_seconds: float = 20
    silence_seconds: float = 30
    deadline_seconds: float = 60
    min_bytes_per_second: int = 64 * 1024
    rate_seconds: float = 60


@dataclass(frozen=True)
class Address:
    """``sftp://[user@]host[:port][/folder]`` in parts; user and folder may be empty."""

    host: str
    port: int
    user: str
    folder: str

    def __str__(self) -> str:
        return f"sftp://{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Split an SFTP address. Raises ValueError."""
    parts = urlsplit(text)
    port = DEFAULT_PORT if parts.port is None else parts.port
    if parts.scheme != "sftp" or not parts.hostname or not port:
        raise ValueError("expected sftp://[user@]host:port[/path]")
    if parts.query or parts.fragment or parts.password is not None:
        raise ValueError("expected neither a password nor ? nor #")
    return Address(parts.hostname, port, unquote(parts.username or ""), unquote(parts.path).rstrip("/"))


def check_name(name: str, where: str) -> None:
    """Refuse what cannot be the name of a site. Raises `ConfigError`."""
    if not names.SITE.fullmatch(name):
        raise ConfigError(
            f"{where}: the name has characters that are not allowed",
            hint="small letters, digits and hyphens only, at most 64",
        )


def check_address(address: str, host_key: str, where: str) -> None:
    """Refuse what is neither ``folder:PATH`` nor an SFTP address with a pinned key. Raises `ConfigError`."""
    is_folder = address.startswith(FOLDER) and len(address) > len(FOLDER) and address.isprintable()
    if not is_folder:
        check_sftp(address, host_key, where)
    elif host_key:
        _check_host_key(host_key, where)


def check_sftp(address: str, host_key: str, where: str) -> None:
    """Refuse what is not an SFTP address with a pinned key. Raises `ConfigError`."""
    if not _is_sftp(address):
        raise ConfigError(
            f"{where}: address is {address!r}, expected sftp://[user@]host:port[/path] or folder:PATH",
            hint="for example sftp://192.0.2.7:40221",
        )
    _check_host_key(host_key, where)


def _check_host_key(host_key: str, where: str) -> None:
    if not is_public_line(host_key, HOST_KEY_TYPES):
        raise ConfigError(
            f"{where}: host_key is {host_key!r}, expected a line like 'ssh-ed25519 AAAA...'",
            hint="the server's key is pinned here: the .pub file of its host key; folder: alone needs none",
        )


def _is_sftp(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return text.isprintable()


def dial(address: Address, patience: Patience) -> socket.socket:
    """A connection that neither waits for more to send nor for ever. Raises OSError."""
    sock = socket.create_connection((address.host, address.port), timeout=patience.connect_seconds)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(patience.silence_seconds * 2000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    except OSError:
        sock.close()
        raise
    return sock
