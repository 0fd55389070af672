"""Try every step between this site and its peers, both ways, and say what to do about what fails.

It changes nothing and may run beside a training. Exits with 1 when something failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from nnunet_gml.commands.named_site import add_named_site, named_site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml doctor``."""
    add_named_site(parser)
    parser.add_argument(
        "--peer", nargs="+", action="extend", metavar="NAME", help="only these peers (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="the same findings for a program")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine, print, and judge."""
    from rich.console import Console

    from nnunet_gml.commands import doctor_report
    from peer_sync.doctor import examine
    from peer_sync.doctor.findings import FAILED

    site = named_site(args.site)
    with doctor_report.waiting(Console(stderr=True), site, args.peer) as tell:
        findings = examine(site, args.peer, tell)
    if args.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        doctor_report.show(Console(highlight=False), site, findings)
    return int(any(finding.verdict == FAILED for finding in findings))
