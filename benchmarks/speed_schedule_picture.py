"""The picture of the simulated schedule: how fast weights spread, and how evenly outboxes are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_gml.palette import SERIES

SIZE_INCHES = (9.0, 3.6)
STYLE = {"svg.hashsalt": "nnunet-gml", "axes.spines.top": False, "axes.spines.right": False}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw two panels over the number of sites, one line for each share of sites away; an SVG."""
    with rc_context(STYLE):
        figure = Figure(SIZE_INCHES, layout="constrained")
        spread, hot = figure.subplots(1, 2)
        for share, colour in zip(sorted({row["away"] for row in rows}), SERIES, strict=False):
            alike = [row for row in rows if row["away"] == share]
            sites = [row["sites"] for row in alike]
            label = f"{share:.0%} away"
            reached = [row["reached"] for row in alike]
            low, high = ([each[end] for each in reached] for end in ("least", "most"))
            spread.fill_between(sites, low, high, color=colour, alpha=0.2, linewidth=0)
            spread.plot(sites, [each["median"] for each in reached], "o-", color=colour, label=label)
            hot.plot(sites, [row["hottest"] for row in alike], "o-", color=colour, label=label)
        _finish(spread, rows, "rounds until all have reached all")
        _finish(hot, rows, "most fetches from one outbox in a round")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _finish(axes: Axes, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    ends = sorted({row["sites"] for row in rows})
    sites = np.geomspace(ends[0], ends[-1], 50)
    if "rounds" in title:
        bound = np.log2(sites) + np.log(sites)
        axes.plot(sites, bound, ":", color="black", label="log2 N + ln N (0% away)")
    else:
        axes.plot(sites, sites, ":", color="black", label="a server: N")
        axes.set_ylim(0, 2 * max(row["hottest"] for row in rows))
    axes.set(xscale="log", xlabel="sites", title=title, xticks=ends, xticklabels=[f"{n:,}" for n in ends])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
