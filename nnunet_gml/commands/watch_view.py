"""The state of one training as a screen of text: what ``nnunet-gml watch`` shows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nnunet_gml.commands import status_table
from nnunet_gml.explanation import Round, mean, read_rounds
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.planning.plans import class_names
from nnunet_gml.printable import printable
from nnunet_gml.training_log import Epoch, planned_epochs, read_epochs, training_logs
from peer_sync.ages import age_words
from peer_sync.errors import ConfigError
from peer_sync.site import Site
from peer_sync.status import read_status

SHOWN_ROUNDS = 6
SPARK_EPOCHS = 30
RECENT_EPOCHS = 5
"""The time of an epoch is the mean of so many."""
BLOCKS = "▁▂▃▄▅▆▇█"
FINAL = "checkpoint_final.pth"


def view(fold: Path, site: Site | None, width: int) -> RenderableType:
    """Everything about a training, from its files as they are now."""
    epochs, rounds = read_epochs(fold), read_rounds(fold)
    parts = [Text(printable(str(fold)), "bold"), *_state(fold, epochs, width), Text()]
    parts += [_losses(epochs), Text(), _classes(_names(fold), epochs)] if epochs else []
    parts += [Text(), _rounds(rounds)] if rounds else [Text("no round with a peer yet", "dim")]
    parts += (
        [Text(), _courier(site, width)] if site else [Text("--site SITE_TOML shows the courier, too", "dim")]
    )
    return Group(*parts)


def has_ended(fold: Path) -> bool:
    """Whether nnU-Net has written its last checkpoint."""
    return (fold / FINAL).exists()


def spark(values: Sequence[float]) -> str:
    """Numbers from 0 to 1 as a line of blocks; a blank where there is none.

    >>> spark([0.0, 0.5, math.nan, 1.0])
    '▁▅ █'
    """
    return "".join(" " if math.isnan(value) else BLOCKS[min(7, max(0, int(value * 8)))] for value in values)


def _state(fold: Path, epochs: Sequence[Epoch], width: int) -> Iterator[RenderableType]:
    """How far it is, and whether anything still moves."""
    done, planned = epochs[-1].number + 1 if epochs else 0, planned_epochs(fold)
    words = [f"epoch {done}" + (f" of {planned}" if planned else "") + " done"]
    recent = [each.seconds for each in epochs[-RECENT_EPOCHS:] if not math.isnan(each.seconds)]
    pace = sum(recent) / len(recent) if recent else math.nan
    words += [f"{pace:.1f} s each"] if recent else []
    if has_ended(fold):
        words.append("the training has ended")
    else:
        left = (planned or 0) - done
        words += [f"about {age_words(timedelta(seconds=left * pace))} left"] if recent and left > 0 else []
        quiet = time.time() - max(path.stat().st_mtime for path in training_logs(fold))
        words.append(f"last line in the log {age_words(timedelta(seconds=max(0.0, quiet)))} ago")
    yield Text(", ".join(words))
    if planned:
        yield ProgressBar(total=planned, completed=done, width=min(60, width))


def _losses(epochs: Sequence[Epoch]) -> Text:
    last = epochs[-1]
    return Text(f"loss: training {_number(last.train_loss)}, validation {_number(last.val_loss)}")


def _classes(names: Sequence[str], epochs: Sequence[Epoch]) -> Table:
    count = len(epochs[-1].dice)
    known = [printable(name) for name in names] if len(names) == count else []
    curves = dict(
        zip(known or [f"class {place + 1}" for place in range(count)], _by_class(epochs), strict=True)
    )
    table = _table("pseudo Dice", "now", "best", f"last {SPARK_EPOCHS} epochs")
    for name, values in {"mean": [each.mean_dice for each in epochs], **curves}.items():
        best = max((value for value in values if not math.isnan(value)), default=math.nan)
        table.add_row(Text(name), _number(values[-1]), _number(best), Text(spark(values[-SPARK_EPOCHS:])))
    return table


def _by_class(epochs: Sequence[Epoch]) -> list[list[float]]:
    """One curve for each class of the last epoch."""
    return [
        [each.dice[place] if place < len(each.dice) else math.nan for each in epochs]
        for place in range(len(epochs[-1].dice))
    ]


def _rounds(rounds: Sequence[Round]) -> Table:
    table = _table("round", "peer", "epoch", "trust", "before", "after", "taken over")
    for each in rounds[-SHOWN_ROUNDS:]:
        peer = printable(each.peer) + ("" if each.used else " (not used)")
        numbers = (mean(each.trust), mean(each.dice_before), mean(each.dice_after))
        facts = (str(each.epoch), *map(_number, numbers), f"{each.merged:.0%}")
        table.add_row(str(each.number), Text(peer), *facts)
    return table


def _courier(site: Site, width: int) -> Text:
    """What ``nnunet-gml status`` prints."""
    console = Console(highlight=False, width=width, force_terminal=True)
    try:
        with console.capture() as captured:
            status_table.show(console, site, read_status(site), datetime.now(UTC), None)
    except ConfigError as error:
        return Text(printable(f"courier: {error}"))
    return Text.from_ansi(captured.get().rstrip())


def _names(fold: Path) -> Sequence[str]:
    """The classes, from the copy of dataset.json that nnU-Net keeps beside its folds."""
    try:
        return class_names(raw_description(fold.parent))
    except (ConfigError, KeyError, TypeError):
        return ()


def _table(*heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for place, head in enumerate(heads):
        is_text = place == 0 or head == "peer" or head.startswith("last")
        table.add_column(head, justify="left" if is_text else "right", overflow="fold")
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
