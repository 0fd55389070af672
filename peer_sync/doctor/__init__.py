"""What stands between this site and its peers: every step tried once, nothing changed, nothing remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from peer_sync.doctor.findings import Finding, side_by_side
from peer_sync.doctor.rows import about_ourselves, about_peer
from peer_sync.errors import ConfigError
from peer_sync.site import Site

__all__ = ["Finding", "examine"]

AT_ONCE = 8


def examine(
    site: Site, peers: Sequence[str] | None = None, tell: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """Check ourselves, then each peer both ways; all side by side.

    Args:
        site: who asks.
        peers: whom to look at; None means all.
        tell: is told the name of each site whose checks have ended.

    Raises:
        ConfigError: one of ``peers`` is not a peer.
    """
    chosen = _chosen(site, peers)

    def look(name: str) -> list[Finding]:
        try:
            return about_ourselves(site) if name == site.name else about_peer(site, name)
        finally:
            tell(name)

    works = [partial(look, name) for name in (site.name, *chosen)]
    return [finding for findings in side_by_side(works, AT_ONCE) for finding in findings]


def _chosen(site: Site, peers: Sequence[str] | None) -> Sequence[str]:
    known = site.federation.peers_of(site.name)
    for peer in peers or ():
        if peer not in known:
            raise ConfigError(
                f"{peer!r} is not a peer of site {site.name!r}", hint=f"its peers are {', '.join(known)}"
            )
    return known if peers is None else list(dict.fromkeys(peers))
