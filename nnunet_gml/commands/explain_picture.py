"""The picture of ``nnunet-gml explain``: classes by rounds, in colours that everybody can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_gml.explanation import Round, mean
from nnunet_gml.palette import BLUE, GREEN, ORANGE, VERMILION


def draw(rounds: Sequence[Round], path: Path) -> None:
    """Write a PNG: trust, change in Dice and mask per class and round; pull and mean Dice below.

    Args:
        rounds: of one run, at least one.
        path: the file; replaced if it exists.
    """
    known = [r for r in rounds if r.classes]
    height = 1.6 + 0.28 * len(known[0].classes if known else ())
    mosaic = "tgm;ddp" if known else "ddp"
    with matplotlib.rc_context({"font.size": 8, "axes.titlesize": 9}):
        figure = Figure(figsize=(max(10.0, 3 + 0.8 * len(rounds)), height + 2.6), layout="constrained")
        panels = figure.subplot_mosaic(mosaic, height_ratios=[height, 2.6] if known else None)
        if known:
            _maps(panels, known)
        _dice(panels["d"], rounds)
        _pull(panels["p"], rounds)
        figure.savefig(path, dpi=150)


def _maps(panels: Mapping[str, Axes], rounds: Sequence[Round]) -> None:
    gains = [r.gain for r in rounds]
    widest = max(0.01, float(np.nanmax(np.abs(gains), initial=0.0)))
    shares = [[100 * share for share in r.mask_share] for r in rounds]
    _map(panels["t"], rounds, "trust in the peer", [r.trust for r in rounds], "viridis", 0, 1)
    _map(panels["g"], rounds, "Dice when it left, less when it came", gains, "PuOr", -widest, widest)
    _map(panels["m"], rounds, "mask, % of all voxels", shares, "cividis", 0, None)
    classes = rounds[0].classes
    for name in "tgm":
        panels[name].set_yticks(range(len(classes)), classes if name == "t" else [""] * len(classes))


def _map(
    axes: Axes,
    rounds: Sequence[Round],
    title: str,
    values: Sequence[Sequence[float]],
    colours: str,
    low: float,
    high: float | None,
) -> None:
    """One row a class, one column a round; grey: not measured."""
    axes.set_facecolor("0.85")
    image = axes.imshow(np.array(values, dtype=float).T, aspect="auto", cmap=colours, vmin=low, vmax=high)
    axes.set_title(title)
    labels = [f"{r.number} {r.peer}" for r in rounds]
    axes.set_xticks(range(len(rounds)), labels, rotation=90)
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


def _dice(axes: Axes, rounds: Sequence[Round]) -> None:
    places = [r.number for r in rounds]
    for values, colour, marker, label in (
        ([mean(r.dice_before) for r in rounds], BLUE, "o", "ours when the peer came"),
        ([mean(r.dice_after) for r in rounds], GREEN, "s", "ours when it left"),
        ([mean(r.dice_merged) for r in rounds], ORANGE, "D", "ours with what was taken"),
        ([mean(r.dice_peer) for r in rounds], VERMILION, "^", "the peer's when it came"),
    ):
        axes.plot(places, values, marker=marker, markersize=4, color=colour, label=label)
    axes.set_title("mean Dice on the fixed validation patches")
    axes.legend(frameon=False)
    _by_round(axes, places)


def _pull(axes: Axes, rounds: Sequence[Round]) -> None:
    places = [r.number for r in rounds]
    axes.plot(places, [r.ratio for r in rounds], marker="o", markersize=4, color=BLUE, label="pull")
    axes.plot(places, [r.weight for r in rounds], marker="s", markersize=4, color=VERMILION, label="weight λ")
    axes.set_title("the peer's pull relative to the labels'")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _by_round(axes, places)


def _by_round(axes: Axes, places: Sequence[int]) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(min(places) - 0.5, max(places) + 0.5)
    axes.grid(alpha=0.3)
