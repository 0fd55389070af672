"""Which peer's weights touched which epochs of a training: learnt with, averaged, merged.

Reads gml_rounds.jsonl in a fold's output folder, or in every fold below a folder. With --site it exits with
1 if that site's weights touched a run, as a site that withdraws may ask. What a peer's weights had taken in
from third sites before, and a common start from -pretrained_weights, are not in this list.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from nnunet_gml.provenance import Touch

    Runs = Mapping[Path, Sequence[Touch]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml provenance``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="output folder of a fold, or a folder above")
    parser.add_argument("--site", metavar="NAME", help="only this site; exit code 1 if it touched a run")
    parser.add_argument("--json", action="store_true", help="the same facts for a program")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print, and judge."""
    from rich.console import Console

    from nnunet_gml.explanation import find_runs
    from nnunet_gml.provenance import touches

    runs = {
        folder: [touch for touch in touches(folder) if args.site in (None, touch.peer)]
        for folder in find_runs(args.folder)
    }
    if args.json:
        facts = {str(folder): [asdict(touch) for touch in found] for folder, found in runs.items()}
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    else:
        console = Console(highlight=False)
        for folder, found in runs.items():
            _show(console, folder, found)
        console.print(_sentence(runs, args.site))
    return int(args.site is not None and any(runs.values()))


def _show(console: Console, folder: Path, found: Sequence[Touch]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console.print(Text(str(folder), "bold"), soft_wrap=True)
    if not found:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("peer", overflow="fold")
    for head in ("round", "offer", "epochs"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("how", overflow="fold")
    for touch in found:
        offer = str(touch.sequence or "-")
        table.add_row(Text(touch.peer), str(touch.round), offer, _epochs(touch), _way(touch))
    console.print()
    console.print(table)
    console.print()


def _epochs(touch: Touch) -> str:
    if touch.last_epoch is None:
        return f"{touch.first_epoch} to ?"
    is_one = touch.first_epoch == touch.last_epoch
    return str(touch.first_epoch) if is_one else f"{touch.first_epoch} to {touch.last_epoch}"


def _way(touch: Touch) -> str:
    from nnunet_gml.provenance import AVERAGED

    if touch.way == AVERAGED:
        return f"{AVERAGED}, share {touch.share:.0%}"
    return f"{touch.way}, {touch.share:.0%} merged" if touch.share else touch.way


def _sentence(runs: Runs, site: str | None) -> str:
    """Who touched how many runs, or whether one site did."""
    names = sorted({touch.peer for found in runs.values() for touch in found})
    total = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    if site is None:
        return f"weights of {', '.join(names) or 'no peer'} touched {total}"
    touched = sum(map(bool, runs.values()))
    return f"weights of {site} touched {touched or 'none'} of {total}"
