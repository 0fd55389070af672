"""Make this site's key, which logs in to peers and signs offers, and its server's host key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml keygen``."""
    parser.add_argument("path", type=Path, help="private key to write; its host key gets the ending _host")
    parser.add_argument("--site", default="", help="name of the site, a comment in the public key")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write both keys and print their public lines."""
    from peer_sync.identity import generate_key

    lines = {
        "public_key": generate_key(args.path, args.site),
        "host_key": generate_key(args.path.with_name(f"{args.path.name}_host"), args.site),
    }
    for name, line in lines.items():
        print(f'{name} = "{line}"')
    print(
        f"nnunet-gml: {args.path} and {args.path}_host stay here; "
        "the two lines above go into federation.toml, by a way you trust",
        file=sys.stderr,
    )
    return 0
