"""An address as somebody has typed it: is it one, and will others be able to dial it?"""

from __future__ import annotations

import ipaddress
import re

from peer_sync.address import FOLDER, parse_address
from peer_sync.errors import ConfigError

EXAMPLE = "for example sftp://gml.north.example:2222, or folder:/mnt/shared/north"
HOST = re.compile(r"[A-Za-z0-9._:%-]+")
RELAY = "--relay puts a copy of the outbox where the others can read it"


def check(option: str, address: str) -> None:
    """Refuse what is no address, or none that another machine could dial. Raises `ConfigError`."""
    if address.startswith(FOLDER):
        return
    try:
        host = parse_address(address).host
    except ValueError as error:
        raise ConfigError(
            f"{option} is {address!r}: {error}; expected sftp://[user@]host:port[/path] or folder:PATH",
            hint=EXAMPLE,
        ) from error
    if not HOST.fullmatch(host):
        raise ConfigError(f"{option} is {address!r}: {host!r} is no name of a machine", hint=EXAMPLE)
    number = _number(host)
    if number is not None and number.is_unspecified:
        raise ConfigError(
            f"{option} is {address!r}, but {host} stands for every address of a machine",
            hint=f"that is for --listen; {option} has the name or address that the others dial",
        )


def host_key_missing(address: str) -> ConfigError:
    """What to say where another server than the built-in one is meant, and its key is not named."""
    found = parse_address(address)
    return ConfigError(
        f"--host-key is missing: the public host key of the server at {address}, to be pinned by all",
        hint=f"ssh-keyscan -t ed25519 -p {found.port} {found.host} > server.pub; ask its owner whether it "
        "is right; then --host-key server.pub",
    )


def doubt(address: str) -> str:
    """A sentence where only machines nearby can dial an address; else empty."""
    if address.startswith(FOLDER):
        return ""
    host = parse_address(address).host
    number = _number(host)
    if host == "localhost" or (number is not None and number.is_loopback):
        return f"{host} is this machine itself, so only sites on this machine can dial it; else {RELAY}"
    if number is not None and number.is_private:
        return (
            f"{host} is a private address, so only machines in the same network (or its VPN) can dial it. If "
            f"the others are elsewhere, and this is a laptop or behind NAT: {RELAY}"
        )
    return ""


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, if the host is not a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
