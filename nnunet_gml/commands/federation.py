"""What all sites share: the one file that names them, their keys and their addresses."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of ``nnunet-gml federation``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="check federation.toml and site.toml files, alone and together")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="federation.toml or site.toml")
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from peer_sync.federation import check_same, load_federation
    from peer_sync.site import check_together, load_site
    from peer_sync.tables import parse_toml

    sites, federations = [], []
    for path in args.files:
        if "site" in parse_toml(path)[0]:
            sites.append(load_site(path))
            federations.append(sites[-1].federation)
        else:
            federations.append(load_federation(path))
    check_together(sites)
    first = federations[0]
    for other in federations[1:]:
        check_same(first, other, "two federation files differ")
    print(f"federation {first.name}: {len(first.members)} sites, digest {first.digest}")
    for member in first.members:
        checked = " (site.toml checked)" if member.name in {site.name for site in sites} else ""
        print(f"  {member.name}  {member.address}{checked}")
    return 0
