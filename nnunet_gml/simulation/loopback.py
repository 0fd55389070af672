"""A federation of simulated sites on this machine's loopback: keys, ports and the TOML files."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.workspace import SiteSpace, class_names

WAIT_SECONDS = 120
"""For the others at the end of a round, in lock-step: sites that share a machine are far apart in time."""


def write_federation(out: Path, sites: Sequence[SiteSpace], recipe: Recipe, plans_digest: str) -> None:
    """Write keys, federation.toml and one site file per site and arm that exchanges; what exists is kept.

    Organs that the recipe takes from a site are left out of what the federation says it contours.

    Raises:
        ConfigError: the files do not make a federation together.
    """
    from peer_sync.federation import load_federation
    from peer_sync.site import check_together, load_site

    federation = out / "federation.toml"
    if not federation.exists():
        text = [_head(out.resolve().name, recipe.seed, plans_digest)]
        missing = recipe.missing_organs()
        for site, port in zip(sites, free_ports(len(sites)), strict=True):
            text.append(_member(site, port) + _labelled(site, missing.get(site.name, ())))
        federation.write_text("\n".join(text))
    members = load_federation(federation)
    for arm in recipe.arms:
        if not arm.exchanges:
            continue
        for site in sites:
            address = members.member(site.name).address.removeprefix("sftp://")
            site.site_file(arm.name).write_text(_site(site.name, address, site.mail(arm.name).name))
        check_together([load_site(site.site_file(arm.name)) for site in sites])


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _head(name: str, seed: int, plans_digest: str) -> str:
    return f"name = {json.dumps(name)}\nseed = {seed}\nplans_digest = {json.dumps(plans_digest)}\n"


def _member(site: SiteSpace, port: int) -> str:
    from peer_sync.identity import generate_key

    keys = site.folder / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    public = {}
    for kind in (site.name, f"{site.name}_host"):
        kept = keys / f"{kind}.pub"
        public[kind] = kept.read_text().strip() if kept.exists() else generate_key(keys / kind, kind)
    return (
        "[[sites]]\n"
        f"name = {json.dumps(site.name)}\n"
        f"public_key = {json.dumps(public[site.name])}\n"
        f'address = "sftp://127.0.0.1:{port}"\n'
        f"host_key = {json.dumps(public[f'{site.name}_host'])}\n"
    )


def _labelled(site: SiteSpace, missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return f"labelled = {json.dumps([name for name in class_names(site.raw) if name not in missing])}\n"


def _site(name: str, listen: str, mail: str) -> str:
    return (
        f'site = "{name}"\n'
        'federation = "../../federation.toml"\n'
        f'private_key = "keys/{name}"\n'
        f'folder = "{mail}"\n'
        f'listen = "{listen}"\n'
        f'host_key = "keys/{name}_host"\n'
        f"wait_seconds = {WAIT_SECONDS}\n"
    )
