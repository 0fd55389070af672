"""Check everything before a training: files, agreement with the other sites, this machine, ways to peers.

It publishes which versions are installed here, asks the peers for theirs and for their plans, does a few
training steps that are thrown away, and ends with a verdict in one line. Exits with 1 when something failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import add_site, named_site
from nnunet_gml.commands.options import add_plans_name

if TYPE_CHECKING:
    from rich.console import Console

    from nnunet_gml.preflight.run import Section, Training

STEPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml check``; most are those of ``nnUNetv2_train``."""
    parser.add_argument("dataset", metavar="DATASET", help="name or number")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="such as 3d_fullres")
    parser.add_argument("fold", metavar="FOLD", help="0 to 4, or all")
    add_plans_name(parser)
    parser.add_argument(
        "-tr", dest="trainer", default="nnUNetTrainerGML", help="trainer (default: %(default)s)"
    )
    add_site(parser)
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="training steps that tell the pace (default: %(default)s)"
    )
    parser.add_argument("--no-steps", dest="steps", action="store_const", const=0, help="no training steps")
    parser.add_argument("--offline", action="store_true", help="ask no peer: a machine without network")
    parser.add_argument("--json", action="store_true", help="the same findings for a program")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, print, and judge."""
    from rich.console import Console

    from nnunet_gml.planning.planned import planned
    from nnunet_gml.preflight.run import Training, as_json, sections, verdict

    site = named_site(args.site)
    plan = planned(args.dataset, args.configuration, args.plans)
    training = Training(site, plan, args.fold, args.trainer, max(0, args.steps), not args.offline)
    console, found = Console(highlight=False), []
    with Console(stderr=True).status("checking ...") as status:
        for section in sections(training, lambda title: status.update(f"checking {title} ...")):
            found.append(section)
            if not args.json:
                _show(console, training, section)
    findings = [finding for section in found for finding in section.findings]
    is_ready, line = verdict(training, findings)
    if args.json:
        sys.stdout.write(json.dumps(as_json(training, found), indent=2) + "\n")
    else:
        _end(console, found, line)
    return int(not is_ready)


def _show(console: Console, training: Training, section: Section) -> None:
    """A title, and a table for each site."""
    from rich.text import Text

    from nnunet_gml.commands import doctor_report

    console.print(Text(section.title, "bold"))
    for (peer, direction), group in groupby(section.findings, lambda f: (f.peer, f.direction)):
        if peer != training.site.name:
            console.print(Text(f"{peer}{' to us' * (direction == 'incoming')}"))
        console.print(doctor_report.table(list(group)))
    console.print()


def _end(console: Console, found: list[Section], line: str) -> None:
    from rich.text import Text

    from nnunet_gml.commands import doctor_report

    findings = [finding for section in found for finding in section.findings]
    doctor_report.print_advice(console, [finding for finding in findings if finding.advice])
    console.print()
    console.print(doctor_report.summary(findings))
    console.print(Text(line, "bold"))
