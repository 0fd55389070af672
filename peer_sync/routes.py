"""Which way leads where, as federation.toml and site.toml state it. Nothing is opened here."""

from __future__ import annotations

from pathlib import Path

from peer_sync.address import FOLDER
from peer_sync.site import Jump, Site
from peer_sync.transport import Transport
from peer_sync.transport.folder import FolderTransport


def way_to(site: Site, peer: str) -> Transport:
    """The way to a peer's outbox. Raises `ConfigError`."""
    member = site.federation.member(peer)
    return _way(site, member.address, member.host_key, site.federation.path.parent, jump_to(site, peer))


def way_to_relay(site: Site) -> Transport | None:
    """The way to the copy of our own outbox; None without ``relay`` in site.toml."""
    if not site.relay:
        return None
    host_key = site.relay_host_key or site.member.host_key
    return _way(site, site.relay, host_key, site.path.parent, jump_to(site, ""))


def jump_to(site: Site, peer: str) -> Jump | None:
    """The host through which a peer is reached, if there is one; an empty name means the relay."""
    jump = site.jump
    return jump if jump is not None and (jump.peers is None or peer in jump.peers) else None


def _way(site: Site, address: str, host_key: str, beside: Path, jump: Jump | None) -> Transport:
    if address.startswith(FOLDER):
        return FolderTransport(beside / address.removeprefix(FOLDER))
    from peer_sync.transport.sftp import SftpTransport

    return SftpTransport(
        address,
        host_key,
        site.private_key,
        site.name,
        key_line=site.member.public_key,
        carrier=site.carrier,
        jump=jump,
    )
