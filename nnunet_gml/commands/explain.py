"""What each peer gave to a training: per round the peer, the trust in it, its pull, Dice before and after.

Reads gml_rounds.jsonl in a fold's output folder (or in every fold below a folder), prints tables and draws
a picture beside it. Dice is that of the fixed validation patches, so it tells about training, not about
test cases; the change in a round contains what the epochs themselves have taught.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nnunet_gml.explanation import Round

PICTURE_NAME = "gml_rounds.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml explain``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="output folder of a fold, or a folder above")
    parser.add_argument("--classes", action="store_true", help="every round class by class, too")
    parser.add_argument("--json", action="store_true", help="the same facts for a program; no picture")
    parser.add_argument("--no-picture", action="store_true", help=f"do not write {PICTURE_NAME}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print, and draw, what every run below the folder says."""
    from nnunet_gml.explanation import find_runs, read_rounds

    runs = {folder: read_rounds(folder) for folder in find_runs(args.folder)}
    if args.json:
        facts = {str(folder): [_for_json(asdict(r)) for r in rounds] for folder, rounds in runs.items()}
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    for folder, rounds in runs.items():
        _show(console, folder, rounds, args.classes)
        if rounds and not args.no_picture:
            from nnunet_gml.commands.explain_picture import draw

            draw(rounds, folder / PICTURE_NAME)
            console.print(f"picture: {folder / PICTURE_NAME}", soft_wrap=True)
    return 0


def _for_json(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """JSON knows no nan."""
    if isinstance(value, dict):
        return {name: _for_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(console: Console, folder: Path, rounds: list[Round], by_class: bool) -> None:
    from nnunet_gml.explanation import mean_trust

    console.print(f"[bold]{folder}[/bold]", soft_wrap=True)
    console.print(_round_table(rounds))
    console.print(
        "Dice before and after learning with the peer, with what was taken of it, and the peer's: "
        "means on our validation patches; (peer): not used\n"
    )
    trust = mean_trust(rounds)
    if trust:
        table = _table("mean trust", *trust)
        for number, name in enumerate(_classes(rounds)):
            table.add_row(name, *(_two(values[number]) for values in trust.values()))
        console.print(table)
    if by_class:
        for round_ in rounds:
            if round_.classes:
                console.print(_class_table(round_))


def _round_table(rounds: list[Round]) -> Table:
    from nnunet_gml.explanation import mean

    heads = (
        "round",
        "epoch",
        "peer",
        "trust",
        "λ",
        "pull",
        "epochs",
        "before",
        "after",
        "merged",
        "peer's",
        "taken",
    )
    table = _table(*heads)
    for r in rounds:
        table.add_row(
            str(r.number),
            str(r.epoch),
            r.peer if r.used else f"({r.peer})",
            _two(mean(r.trust)),
            _two(r.weight),
            _two(r.ratio),
            str(r.epochs or "-"),
            *(_three(mean(values)) for values in r.dice_of_stages),
            f"{r.merged:.0%}",
        )
    return table


def _class_table(r: Round) -> Table:
    dice = ("before", "after", "merged", "peer's")
    table = _table(f"round {r.number}, {r.peer}", "trust", "mask, % of voxels", *dice)
    for number, name in enumerate(r.classes):
        table.add_row(
            name,
            _two(r.trust[number]),
            _three(100 * r.mask_share[number]),
            *(_three(values[number]) for values in r.dice_of_stages),
        )
    return table


def _table(*heads: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for number, head in enumerate(heads):
        is_text = number == 0 or head == "peer"
        table.add_column(head, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    return table


def _classes(rounds: list[Round]) -> tuple[str, ...]:
    return next(r.classes for r in rounds if r.classes)


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
