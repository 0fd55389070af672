"""What did a site gain, per organ? Finished runs against stock nnU-Net, in figures and one report.

Takes runs of `nnunet-gml simulate`, output folders of nnUNetv2_train (their validation cases), and folders of
predictions with references. Measures Dice, normalised surface Dice, HD95 and volumes of every case, compares
every arm with the baseline, patient by patient, and writes scores.csv, scores.parquet, summary.md,
summary.json and report.html. With --site the report shows what the other sites said of themselves, too.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import add_site
from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

    from nnunet_gml.comparison.predicted import Predicted
    from nnunet_gml.comparison.summary import Summary
    from peer_sync.site import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml compare``."""
    parser.add_argument(
        "places",
        nargs="+",
        metavar="PLACE",
        help="run folder of simulate; output folder of a fold, or a folder above, also SITE:ARM=FOLDER; "
        "SITE:ARM=PREDICTIONS,REFERENCES; TRAINED@TESTED:ARM=... for one site's network on another's cases",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--baseline", metavar="ARM", help="what gains are measured against (default: stock nnU-Net)"
    )
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[CLASS=]MM",
        help="of normalised surface Dice, for all classes or for one; repeatable (default: 2)",
    )
    parser.add_argument(
        "--small",
        type=float,
        default=2.0,
        metavar="ML",
        help="organs with a smaller median volume are shown apart (default: 2)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; each holds one case (default: one per core)",
    )
    _add_report_arguments(parser)
    add_site(parser)
    parser.set_defaults(run=run)


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-report", action="store_true", help="do not write report.html")
    parser.add_argument(
        "--focus",
        metavar="ARM",
        default="",
        help="the arm that the report looks at closely (default: the best)",
    )
    parser.add_argument(
        "--slices",
        type=int,
        default=6,
        metavar="N",
        help="cases of which the report shows a slice; 0 keeps images out of it (default: 6)",
    )


def run(args: argparse.Namespace) -> int:
    """Find, measure, compare, write; say where."""
    from rich.console import Console

    from nnunet_gml.commands.compare_site import at_site, site_of
    from nnunet_gml.comparison.measures import measure
    from nnunet_gml.comparison.predicted import class_names_of
    from nnunet_gml.comparison.runs import find_predicted
    from nnunet_gml.comparison.summary import choose_baseline, known_arm, summarise
    from nnunet_gml.comparison.tolerances import read_tolerances

    console = Console(highlight=False)
    predicted = find_predicted(args.places)
    site = site_of(args.site, predicted)
    baseline = choose_baseline(predicted, args.baseline)
    if args.focus:
        known_arm(predicted, args.focus, "--focus")
    tolerance_mm = read_tolerances(args.tolerance, class_names_of(predicted))
    _make_folder(args.out)
    with _progress(console, predicted) as done:
        scores = measure(predicted, tolerance_mm, args.jobs, done)
    summary = summarise(scores, baseline, tolerance_mm, args.small)
    _show(console, summary, _write(args, at_site(predicted, site), scores, summary, site))
    return 0


def _write(
    args: argparse.Namespace,
    predicted: Sequence[Predicted],
    scores: DataFrame,
    summary: Summary,
    site: Site | None,
) -> list[Path]:
    from nnunet_gml.comparison.summary import contoured
    from nnunet_gml.comparison.tables import write_scores, write_summary

    command = shlex.join(["nnunet-gml", *sys.argv[1:]])
    written = [*write_scores(args.out, scores), *write_summary(args.out, summary, command)]
    if args.no_report:
        return written
    from nnunet_gml.report.page import write_report

    report = args.out / "report.html"
    write_report(report, predicted, contoured(scores), summary, command, args.focus, args.slices, site)
    return [*written, report]


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {out}: {error.strerror}", "give another --out") from error


@contextmanager
def _progress(console: Console, predicted: Sequence[Predicted]) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import Progress

    cases = sum(len(each.cases) for each in predicted)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"measuring {cases} cases", total=cases)
        yield lambda: bar.advance(task)


def _show(console: Console, summary: Summary, written: Sequence[Path]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from nnunet_gml.comparison.tables import SHORT_HEADS, short_cells

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for number, head in enumerate(SHORT_HEADS):
        table.add_column(head, overflow="fold", no_wrap=number > 0)
    for _, row in summary.arms.iterrows():
        table.add_row(*map(Text, short_cells(row)))
    console.print(table)
    console.print(Text(f"\ngains are over {summary.baseline}"))
    for note in summary.notes:
        console.print(Text(note))
    if not any(path.suffix == ".parquet" for path in written):
        console.print("no scores.parquet: pyarrow is not installed")
    for path in written:
        console.print(Text(f"written: {path}"), soft_wrap=True)
