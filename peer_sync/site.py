"""site.toml: which site this installation is, its keys and folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peer_sync import identity
from peer_sync.address import check_address, check_sftp
from peer_sync.errors import ConfigError
from peer_sync.federation import (
    Federation,
    Member,
    check_same,
    load_federation,
)
from peer_sync.manifest import DTYPES
from peer_sync.tables import Table, parse_toml

SITE_VARIABLE = "nnUNet_gml_site"
DEFAULT_OFFER_DAYS = 30
DEFAULT_STALE_DAYS = 7
MAX_DAYS = 3650
DEFAULT_WAIT_SECONDS = 600
MAX_WAIT_SECONDS = 86400
CARRIERS = ("paramiko", "ssh")
COURIERS = ("thread", "agent")
JUMP_KEYS = ("address", "host_key", "peers")
SITE_KEYS = (
    "site",
    "federation",
    "private_key",
    "folder",
    "listen",
    "host_key",
    "share_cases",
    "share_dice",
    "offer_days",
    "stale_days",
    "wait_seconds",
    "courier",
    "carrier",
    "payload",
    "relay",
    "relay_host_key",
    "encrypt",
    "jump",
)


@dataclass(frozen=True)
class Jump:
    """A host through which peers are reached (ProxyJump).

    Attributes:
        address: ``sftp://[user@]host:port``.
        host_key: its pinned key.
        peers: the sites behind it; None means all that have an ``sftp://`` address.
    """

    address: str
    host_key: str
    peers: tuple[str, ...] | None


@dataclass(frozen=True)
class Site:
    """The whole file; paths are absolute.

    Attributes:
        name: this site's name in the federation.
        federation: the federation's file, read.
        private_key: logs in to peers and signs manifests.
        folder: outbox, inbox, quarantine, state and ledger.jsonl are below it.
        listen: host and port of the embedded server; None when something else serves the outbox.
        host_key: the embedded server's private host key.
        share_cases: whether the number of cases stands in the manifest.
        share_dice: whether Dice per class stands in the manifest.
        offer_days: an offer expires after so many days.
        stale_days: a peer whose newest offer is older than this is reported.
        wait_seconds: how long a training in step waits for the others at the end of a round.
        courier: ``thread`` moves files within the training; ``agent`` leaves that to ``nnunet-gml sync``.
        carrier: ``paramiko``, or ``ssh`` for the system's own ssh.
        payload: type of the weights we offer: ``float16``, ``float32`` or ``int8``.
        relay: where a copy of the outbox is kept for the peers, ``sftp://`` or ``folder:``; may be empty.
        relay_host_key: the pinned key of the relay's SFTP server.
        encrypt: whether weights are encrypted to the federation's sites.
        jump: the host between us and peers, or None.
        path: where the file is.
    """

    name: str
    federation: Federation
    private_key: Path
    folder: Path
    listen: tuple[str, int] | None
    host_key: Path | None
    share_cases: bool
    share_dice: bool
    offer_days: int
    stale_days: int
    wait_seconds: int
    courier: str
    carrier: str
    payload: str
    relay: str
    relay_host_key: str
    encrypt: bool
    jump: Jump | None
    path: Path

    @property
    def member(self) -> Member:
        """This site as the others see it."""
        return self.federation.member(self.name)


def load_site(path: Path | str) -> Site:
    """Read and check site.toml, its federation file and its keys. Raises `ConfigError`."""
    path = Path(path).absolute()
    content, _ = parse_toml(path)
    table = Table(content, path.name)
    table.only(SITE_KEYS)
    host_key = table.get("host_key", str, "")
    site = Site(
        name=table.need("site", str),
        federation=load_federation(path.parent / table.need("federation", str)),
        private_key=path.parent / table.need("private_key", str),
        folder=path.parent / table.need("folder", str),
        listen=read_listen(table),
        host_key=path.parent / host_key if host_key else None,
        share_cases=table.get("share_cases", bool, True),
        share_dice=table.get("share_dice", bool, True),
        offer_days=table.get("offer_days", int, DEFAULT_OFFER_DAYS),
        stale_days=table.get("stale_days", int, DEFAULT_STALE_DAYS),
        wait_seconds=table.get("wait_seconds", int, DEFAULT_WAIT_SECONDS),
        courier=table.choice("courier", COURIERS),
        carrier=table.choice("carrier", CARRIERS),
        payload=table.choice("payload", DTYPES),
        relay=table.get("relay", str, ""),
        relay_host_key=table.get("relay_host_key", str, ""),
        encrypt=table.get("encrypt", bool, False),
        jump=_jump(table),
        path=path,
    )
    check_site(site)
    return site


def site_from_environment() -> Site:
    """The site that the environment variable ``nnUNet_gml_site`` names. Raises `ConfigError`."""
    value = os.environ.get(SITE_VARIABLE, "")
    if not value:
        raise ConfigError(
            f"the environment variable {SITE_VARIABLE} is not set, expected the path of a site.toml",
            hint=f"export {SITE_VARIABLE}=/path/to/site.toml beside nnUNet_raw and the others",
        )
    return load_site(value)


def check_together(sites: Sequence[Site]) -> None:
    """Refuse sites that cannot run side by side. Raises `ConfigError`."""
    for number, site in enumerate(sites):
        for other in sites[:number]:
            _check_pair(other, site)


def _check_pair(one: Site, other: Site) -> None:
    if one.name == other.name:
        raise ConfigError(
            f"two sites are called {one.name!r}: {one.path} and {other.path}",
            hint="give each site its own name",
        )
    names = f"sites {one.name!r} and {other.name!r}"
    check_same(one.federation, other.federation, f"{names} have different federation files")
    if one.folder.resolve() == other.folder.resolve():
        raise ConfigError(f"{names} share the folder {one.folder}", hint="give each site its own folder")
    if one.listen is not None and one.listen == other.listen:
        raise ConfigError(
            f"{names} share the listen address {one.listen[0]}:{one.listen[1]}",
            hint="give each site its own port",
        )


def read_listen(table: Table) -> tuple[str, int] | None:
    """Host and port in the key ``listen``; None without it. Raises `ConfigError`."""
    text = table.get("listen", str, "")
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"{table.where}: listen is {text!r}, expected HOST:PORT", hint="for example 127.0.0.1:40221"
        )
    return host.strip("[]"), int(port)


def _jump(table: Table) -> Jump | None:
    content = table.get("jump", dict, {})
    if not content:
        return None
    inner = Table(content, f"{table.where}, [jump]")
    inner.only(JUMP_KEYS)
    jump = Jump(inner.need("address", str), inner.get("host_key", str, ""), inner.words("peers"))
    check_sftp(jump.address, jump.host_key, inner.where)
    return jump


def check_site(site: Site) -> None:
    """Refuse numbers, keys and ways that do not fit each other. Raises `ConfigError`."""
    where = site.path.name
    for name, found, least, most in (
        ("offer_days", site.offer_days, 1, MAX_DAYS),
        ("stale_days", site.stale_days, 1, MAX_DAYS),
        ("wait_seconds", site.wait_seconds, 0, MAX_WAIT_SECONDS),
    ):
        if not least <= found <= most:
            raise ConfigError(
                f"{where}: {name} is {found}, expected {least} to {most}", hint="leave it out for the default"
            )
    identity.check_site_key(site.private_key, site.member.public_key)
    _check_ways(site, where)
    if site.listen is None:
        return
    if site.host_key is None:
        raise ConfigError(
            f"{where}: listen is set, but host_key is missing",
            hint="nnunet-gml keygen makes one; its public line belongs into federation.toml as host_key",
        )
    _check_key(where, "host_key", site.host_key, site.member.host_key)


def _check_ways(site: Site, where: str) -> None:
    if site.relay:
        check_address(site.relay, site.relay_host_key or site.member.host_key, f"{where}, relay")
    for peer in (site.jump and site.jump.peers) or ():
        site.federation.member(peer)


def _check_key(where: str, name: str, path: Path, expected: str) -> None:
    found = identity.public_line(identity.load_private_key(path))
    if expected and not identity.same_key(found, expected):
        raise ConfigError(
            f"{where}: {name} {path} is the key {found!r}, but federation.toml expects {expected!r}",
            hint="use the key whose public line is in federation.toml, or change the line at every site",
        )
