"""``nnunet-gml federation figures``: the whole federation, from what one site has collected."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nnunet_gml.commands.named_site import add_site, named_site

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from peer_sync.figures import Figure
    from peer_sync.site import Site

WITHHELD, NONE = "withheld", "-"
FIRST_WIDTH, SITE_WIDTH = 22, 14
MOST_CLASSES = 200
"""In the table: what a site says it contours is its own word, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Dice per class and the number of cases stand in the signed manifest of every offer, unless a site "
        "withholds them (share_dice, share_cases). They are each site's own words about its own images: a "
        "difference between two sites may be one between their images or contours. --json has all offers, "
        "the table the last one of each site."
    )
    add_site(parser)
    parser.add_argument("--json", action="store_true", help="all offers since the beginning, for a program")


def run(args: argparse.Namespace) -> int:
    """Read and print; nobody is asked."""
    from peer_sync.figures import read_figures

    site = named_site(args.site)
    figures = read_figures(site.folder)
    if args.json:
        sys.stdout.write(json.dumps(facts(site, figures), indent=1) + "\n")
    else:
        from rich.console import Console

        show(Console(highlight=False), site, figures)
    return 0


def facts(site: Site, figures: Sequence[Figure]) -> dict[str, Any]:
    """Everything, as JSON can hold it; ``former`` are those of sites that are not in federation.toml now."""
    members = {member.name for member in site.federation.members}
    return {
        "site": site.name,
        "federation": site.federation.name,
        "figures": [
            {**asdict(figure), "created": figure.created.isoformat(), "former": figure.site not in members}
            for figure in figures
        ],
    }


def show(console: Console, site: Site, figures: Sequence[Figure]) -> None:
    """Print a row for each class and a column for each site, as many side by side as there is room for."""
    from rich.text import Text

    from peer_sync.figures import newest

    found = newest(figures)
    names = [member.name for member in site.federation.members]
    told = {name: found[name] for name in names if name in found}
    console.print(Text(f"federation {site.federation.name}, as site {site.name} knows it", "bold"))
    at_once = max(1, (console.width - FIRST_WIDTH) // SITE_WIDTH)
    for start in range(0, len(told), at_once):
        console.print()
        console.print(_table(dict(list(told.items())[start : start + at_once])))
    console.print()
    for sentence in _sentences(site, names, found):
        console.print(Text(sentence))


def _table(told: Mapping[str, Figure]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    for name in told:
        table.add_column(name, justify="right", overflow="fold", max_width=SITE_WIDTH)
    columns = [_heads(figure) for figure in told.values()]
    for head in columns[0]:
        table.add_row(head, *(column[head] for column in columns), end_section=head == "cases")
    labels = sorted({label for figure in told.values() for label in figure.labelled})
    for label in labels[:MOST_CLASSES]:
        table.add_row(Text(label), *(_dice(figure, label) for figure in told.values()))
    if len(labels) > MOST_CLASSES:
        table.add_row(f"and {len(labels) - MOST_CLASSES} more classes", *("" for _ in told))
    return table


def _heads(figure: Figure) -> dict[str, str]:
    from peer_sync.ages import ago

    return {
        "offered": ago(datetime.now(UTC) - figure.created),
        "round": str(figure.round),
        "epoch": str(figure.epoch),
        "cases": WITHHELD if figure.cases is None else str(figure.cases),
    }


def _dice(figure: Figure, label: str) -> str:
    if label not in figure.labelled:
        return ""
    if figure.dice is None:
        return WITHHELD
    return f"{figure.dice[label]:.3f}" if label in figure.dice else NONE


def _sentences(site: Site, names: Sequence[str], found: Mapping[str, Figure]) -> Iterator[str]:
    """What the numbers are, and what is not in the table."""
    yield "Dice on each site's own validation patches, by its own word; empty: not contoured there"
    silent = [name for name in names if name not in found]
    if silent:
        yield f"nothing is known yet of {', '.join(silent)}"
    ours = site.federation.plans_digest
    others = [name for name in names if ours and name in found and found[name].plans_digest != ours]
    if others:
        yield f"of other plans than those in federation.toml: {', '.join(others)}"
    former = sorted(found.keys() - set(names))
    if former:
        yield f"no longer in federation.toml, and left out: {', '.join(former)} (--json has them)"
