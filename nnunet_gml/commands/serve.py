"""Serve this site's outbox to its peers, read-only over SFTP, until Ctrl-C or SIGTERM.

For a site whose training has ended or runs elsewhere; a training with `listen` in site.toml
serves the outbox by itself, and leaves it to this command when it runs already.
"""

from __future__ import annotations

import argparse
import signal
import sys

from nnunet_gml.commands.named_site import add_named_site, named_site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml serve``."""
    add_named_site(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until somebody ends it; logins, downloads and denials are on standard error, too."""
    from peer_sync.errors import ConfigError
    from peer_sync.server.running import serving

    site = named_site(args.site)
    if site.relay and site.listen is None:
        raise ConfigError(
            f"there is nothing to serve here: the others read the outbox of site {site.name!r} at "
            f"{site.member.address}, where a copy of it is put",
            hint=f"nnunet-gml doctor {site.path} says whether it can be read there",
        )
    with serving(site, console=True) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop.set())
        outbox = site.folder / "outbox"
        sys.stdout.write(f"site {site.name}: listening on {server.address}, serving {outbox}\n")
        sys.stdout.flush()
        server.serve()
    return 0
