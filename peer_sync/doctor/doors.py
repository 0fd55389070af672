"""The outboxes that a site can knock at: its peers', its own seen from outside, and the relay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peer_sync.address import FOLDER
from peer_sync.routes import jump_to, way_to, way_to_relay
from peer_sync.site import Jump, Site
from peer_sync.transport import Transport


@dataclass(frozen=True)
class Door:
    """An outbox, as the configuration says it can be reached.

    Attributes:
        site: who looks.
        whose: whom to ask when it does not work.
        address: ``sftp://`` or ``folder:``.
        host_key: pinned.
        jump: the host in between, or None.
        folder: where a ``folder:`` address leads.
        transport: the way there.
    """

    site: Site
    whose: str
    address: str
    host_key: str
    jump: Jump | None
    folder: Path
    transport: Transport

    @property
    def is_folder(self) -> bool:
        """Whether no network is needed, as far as this machine can tell."""
        return self.address.startswith(FOLDER)


def peer_door(site: Site, peer: str) -> Door:
    """The outbox of a peer, or our own as peers reach it. Raises `ConfigError`."""
    member = site.federation.member(peer)
    whose = f"site {peer!r}" if peer != site.name else "whoever runs our server"
    beside, way = site.federation.path.parent, way_to(site, peer)
    folder = _folder(beside, member.address)
    return Door(site, whose, member.address, member.host_key, jump_to(site, peer), folder, way)


def relay_door(site: Site) -> Door | None:
    """The copy of our outbox; None without ``relay`` in site.toml. Raises `ConfigError`."""
    way = way_to_relay(site)
    if way is None:
        return None
    key = site.relay_host_key or site.member.host_key
    folder = _folder(site.path.parent, site.relay)
    return Door(site, "whoever runs the relay", site.relay, key, jump_to(site, ""), folder, way)


def _folder(beside: Path, address: str) -> Path:
    return beside / address.removeprefix(FOLDER)
