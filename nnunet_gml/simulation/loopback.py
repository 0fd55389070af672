"""A federation of simulated sites on this machine's loopback: keys, ports and the TOML files."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

from nnunet_gml.simulation.workspace import Recipe, SiteSpace


def write_federation(out: Path, sites: Sequence[SiteSpace], recipe: Recipe, plans_digest: str) -> None:
    """Write keys, federation.toml and one site file per site and trainer; what exists is kept.

    Raises:
        ConfigError: the files do not make a federation together.
    """
    from peer_sync.federation import load_federation
    from peer_sync.site import check_together, load_site

    federation = out / "federation.toml"
    if not federation.exists():
        text = [_head(out.resolve().name, recipe.seed, plans_digest)]
        ports = free_ports(len(sites))
        text += [_member(site, port) for site, port in zip(sites, ports, strict=True)]
        federation.write_text("\n".join(text))
    members = load_federation(federation)
    for trainer in recipe.trainers:
        for site in sites:
            address = members.member(site.name).address.removeprefix("sftp://")
            text_of_site = _site(site.name, address, site.mail(trainer, recipe).name)
            site.site_file(trainer, recipe).write_text(text_of_site)
        check_together([load_site(site.site_file(trainer, recipe)) for site in sites])


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


def _site(name: str, listen: str, mail: str) -> str:
    return (
        f'site = "{name}"\n'
        'federation = "../../federation.toml"\n'
        f'private_key = "keys/{name}"\n'
        f'folder = "{mail}"\n'
        f'listen = "{listen}"\n'
        f'host_key = "keys/{name}_host"\n'
    )
