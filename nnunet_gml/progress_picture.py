"""gml_progress.png, beside progress.png: curves with the exchanges, trust, and what each round brought."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nnunet_gml.explanation import Round, mean, read_rounds
from nnunet_gml.palette import BLUE, GREEN, SERIES, VERMILION
from nnunet_gml.training_log import Epoch, read_epochs

PICTURE = "gml_progress.png"
DPI = 100
MARKS = "osD^vP"


def draw(fold: Path) -> Path | None:
    """Draw the training in a fold's folder as far as its log and its list of rounds go.

    Takes about half a second; nnU-Net's global settings of matplotlib are left alone.

    Returns:
        The picture, replaced as a whole; None before the first epoch is over.
    """
    epochs, rounds = read_epochs(fold), read_rounds(fold)
    if not epochs:
        return None
    part = fold / f".{PICTURE}"
    with matplotlib.style.context(["default", {"font.size": 9, "text.parse_math": False}]):
        figure = Figure(figsize=(11, 7), layout="constrained")
        panels = figure.subplot_mosaic("ld;tg")
        looks = _looks(rounds)
        _losses(panels["l"], epochs)
        _dice(panels["d"], epochs)
        for name in "ld":
            _exchanges(panels[name], rounds, looks)
        _trust(panels["t"], rounds, looks)
        _gains(panels["g"], rounds, looks)
        figure.savefig(part, dpi=DPI, format="png")
    return part.replace(fold / PICTURE)


def try_to_draw(fold: Path, say: Callable[[str], None]) -> None:
    """`draw`; whatever goes wrong costs the picture, and never the training."""
    try:
        draw(fold)
    except Exception as error:  # a full disk, a broken list, anything
        say(f"{PICTURE} could not be drawn: {error!r}")


def _looks(rounds: Sequence[Round]) -> Mapping[str, tuple[str, str]]:
    """Colour and mark of each peer."""
    peers = sorted({each.peer for each in rounds})
    return {p: (SERIES[n % len(SERIES)], MARKS[n % len(MARKS)]) for n, p in enumerate(peers)}


def _losses(axes: Axes, epochs: Sequence[Epoch]) -> None:
    numbers = [each.number for each in epochs]
    axes.plot(numbers, [each.train_loss for each in epochs], color=BLUE, label="training")
    axes.plot(numbers, [each.val_loss for each in epochs], color=VERMILION, ls="--", label="validation")
    _named(axes, "loss", "epoch", "loss")


def _dice(axes: Axes, epochs: Sequence[Epoch]) -> None:
    numbers = [each.number for each in epochs]
    per_class = list(zip(*(each.dice for each in epochs), strict=False))
    for place, values in enumerate(per_class):
        axes.plot(numbers, values, color="0.75", lw=0.8, label=None if place else "each class")
    axes.plot(numbers, [each.mean_dice for each in epochs], color=GREEN, lw=2, label="mean")
    axes.set_ylim(0, 1)
    _named(axes, "pseudo Dice on random validation patches", "epoch", "Dice (0 to 1)")


def _exchanges(axes: Axes, rounds: Sequence[Round], looks: Mapping[str, tuple[str, str]]) -> None:
    """A line where a peer's weights came; dotted where they were not used."""
    for each in rounds:
        axes.axvline(each.epoch, color=looks[each.peer][0], lw=0.8, ls="-" if each.used else ":", alpha=0.6)


def _trust(axes: Axes, rounds: Sequence[Round], looks: Mapping[str, tuple[str, str]]) -> None:
    for peer, (colour, mark) in looks.items():
        met = [each for each in rounds if each.peer == peer and each.trust]
        for each in met:
            axes.vlines(each.number, min(each.trust), max(each.trust), color=colour, lw=1)
        numbers, values = [each.number for each in met], [mean(each.trust) for each in met]
        axes.plot(numbers, values, color=colour, marker=mark, ls="", label=peer)
    axes.set_ylim(-0.02, 1.02)
    _named(axes, "trust in the peer: mean, lowest and highest class", "round", "trust (0 to 1)", bool(looks))
    _empty(axes, any(each.trust for each in rounds), "no peer was scored yet")


def _gains(axes: Axes, rounds: Sequence[Round], looks: Mapping[str, tuple[str, str]]) -> None:
    gains = {each.number: (mean(each.gain), each.peer, each.merged) for each in rounds}
    known = {number: each for number, each in gains.items() if not math.isnan(each[0])}
    for number, (gain, peer, merged) in known.items():
        axes.bar(number, gain, color=looks[peer][0], edgecolor="0.2", hatch="" if merged else "//", width=0.7)
    axes.axhline(0, color="0.2", lw=0.8)
    _named(axes, "Dice on our fixed patches: when the peer left, less when it came", "round", "gain", False)
    if known:
        taken = Patch(facecolor="0.75", edgecolor="0.2", label="weights taken over")
        left = Patch(facecolor="0.75", edgecolor="0.2", hatch="//", label="not taken over")
        axes.legend(handles=[taken, left], frameon=False)
    _empty(axes, bool(known), "no round is over yet")


def _empty(axes: Axes, has_data: bool, words: str) -> None:
    if not has_data:
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color="0.4")


def _named(axes: Axes, title: str, across: str, up: str, has_legend: bool = True) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if has_legend:
        axes.legend(loc="lower left" if up.startswith("trust") else "best", frameon=False)
