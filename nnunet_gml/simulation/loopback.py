"""A federation of simulated sites on this machine's loopback: keys, ports and the TOML files."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path

from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.workspace import SiteSpace, class_names, run_suffix

WAIT_SECONDS = 120
"""For the others at the end of a round, in lock-step: sites that share a machine are far apart in time."""
CLUSTER_WAIT_SECONDS = 3600
"""Jobs on a cluster begin when there is room for them."""


def write_federation(out: Path, sites: Sequence[SiteSpace], recipe: Recipe, plans_digest: str) -> None:
    """Write keys, federation.toml and one site file per site and arm that exchanges; what exists is kept.

    Sites that read each other's outbox in the run folder have a federation for each arm, as the outbox
    has an address there. Organs that the recipe takes from a site are left out of what the federation
    says it contours.

    Raises:
        ConfigError: the files do not make a federation together.
    """
    if not recipe.by_folder:
        addresses = [f"sftp://127.0.0.1:{port}" for port in free_ports(len(sites))]
        _found(out / "federation.toml", sites, recipe, plans_digest, addresses)
    for arm in (arm for arm in recipe.arms if arm.exchanges):
        federation = out / "federation.toml"
        if recipe.by_folder:
            federation = out / f"federation{run_suffix(arm.name)}.toml"
            outboxes = [site.mail(arm.name).relative_to(out) / "outbox" for site in sites]
            _found(federation, sites, recipe, plans_digest, [f"folder:{outbox}" for outbox in outboxes])
        _write_sites(federation, sites, arm.name)


def _write_sites(federation: Path, sites: Sequence[SiteSpace], arm: str) -> None:
    from peer_sync.federation import load_federation
    from peer_sync.site import check_together, load_site

    members = load_federation(federation)
    for site in sites:
        address = members.member(site.name).address
        site.site_file(arm).write_text(_site(site.name, federation.name, address, site.mail(arm).name))
    check_together([load_site(site.site_file(arm)) for site in sites])


def _found(
    federation: Path, sites: Sequence[SiteSpace], recipe: Recipe, plans_digest: str, addresses: Sequence[str]
) -> None:
    if federation.exists():
        return
    text = [_head(federation.parent.resolve().name, recipe.seed, plans_digest)]
    missing = recipe.missing_organs()
    for site, address in zip(sites, addresses, strict=True):
        text.append(_member(site, address) + _labelled(site, missing.get(site.name, ())))
    federation.write_text("\n".join(text))


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback that nothing listens on, one after the other.

    They lie below those that systems lend to outgoing connections, so that a server which begins again finds
    its port still free.
    """
    while True:
        first = random.SystemRandom().randrange(20_000, 32_000)
        ports = list(range(first, first + count))
        with contextlib.ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return ports


def _head(name: str, seed: int, plans_digest: str) -> str:
    return f"name = {json.dumps(name)}\nseed = {seed}\nplans_digest = {json.dumps(plans_digest)}\n"


def _member(site: SiteSpace, address: str) -> str:
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
        f"address = {json.dumps(address)}\n"
        f"host_key = {json.dumps(public[f'{site.name}_host'])}\n"
    )


def _labelled(site: SiteSpace, missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return f"labelled = {json.dumps([name for name in class_names(site.raw) if name not in missing])}\n"


def _site(name: str, federation: str, address: str, mail: str) -> str:
    text = (
        f'site = "{name}"\n'
        f'federation = "../../{federation}"\n'
        f'private_key = "keys/{name}"\n'
        f'folder = "{mail}"\n'
    )
    if address.startswith("folder:"):
        return f"{text}wait_seconds = {CLUSTER_WAIT_SECONDS}\n"
    listen = address.removeprefix("sftp://")
    served = f'listen = "{listen}"\nhost_key = "keys/{name}_host"\n'
    return f"{text}{served}wait_seconds = {WAIT_SECONDS}\n"
