"""Watch a training: epoch, losses, Dice per class, the last rounds, and what the courier is doing.

Reads nnU-Net's own log and, where there is one, the list of rounds, every few seconds, until the training
ends or you press Ctrl-C; it changes nothing. A stock training and one that has ended can be looked at, too.
Dice is nnU-Net's pseudo Dice on random validation patches. What the courier does is shown for the site of
--site, or of the environment variable nnUNet_gml_site.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import add_site, named_site_if_any
from nnunet_gml.explanation import FOLD_EXAMPLE
from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from peer_sync.site import Site

DEFAULT_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml watch``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="output folder of a fold, or a folder above")
    add_site(parser)
    parser.add_argument("--once", action="store_true", help="show the state once, for scripts and mails")
    parser.add_argument(
        "--every",
        type=float,
        default=DEFAULT_SECONDS,
        metavar="SECONDS",
        help="between two looks (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show a training until it ends; once where nobody is looking."""
    from rich.console import Console

    from nnunet_gml.commands import watch_view

    fold, site = newest_fold(args.folder), named_site_if_any(args.site)
    console = Console(highlight=False)
    if args.once or not console.is_terminal:
        console.print(watch_view.view(fold, site, console.width))
        return 0
    try:
        _follow(console, fold, site, max(0.5, args.every))
    except KeyboardInterrupt:
        console.print("the training goes on")
    return 0


def _follow(console: Console, fold: Path, site: Site | None, seconds: float) -> None:
    from rich.live import Live

    from nnunet_gml.commands import watch_view

    with Live(console=console, auto_refresh=False, screen=True) as live:
        while not watch_view.has_ended(fold):
            live.update(watch_view.view(fold, site, console.width), refresh=True)
            time.sleep(seconds)
    console.print(watch_view.view(fold, site, console.width))


def newest_fold(folder: Path) -> Path:
    """The fold in or below a folder whose log was written last.

    Raises:
        ConfigError: there is no training log.
    """
    logs = [path for path in folder.rglob("training_log_*.txt") if path.is_file()]
    if not logs:
        raise ConfigError(
            f"no training log (training_log_*.txt) in or below {folder}",
            f"name a fold's output folder, such as {FOLD_EXAMPLE}; "
            "nnU-Net begins the log when it begins the training",
        )
    return max(logs, key=lambda path: path.stat().st_mtime).parent
