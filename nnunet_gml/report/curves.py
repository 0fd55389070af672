"""Learning curves: Dice during training, with the moments at which a peer's weights came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from nnunet_gml.report.blocks import Figure, Key, Panel, Section, number
from nnunet_gml.report.study import Study, Training
from nnunet_gml.report.svg import (
    WIDTH,
    Scale,
    bottom_axis,
    drawing,
    element,
    left_axis,
    line,
    scale_of,
    told,
)

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 60, WIDTH - 10, 16, 196, 232
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
SHOWN_POINTS = 250
"""Longer curves are thinned out; the marks of exchanges stay."""
SMOOTHING = 0.7
"""Share of the last value that the drawn curve keeps: nnU-Net's pseudo Dice jumps from epoch to epoch."""


def curves(study: Study) -> Section:
    """A panel for each site."""
    lead = (
        "nnU-Net's own pseudo Dice, the mean over the organs on random validation patches, smoothed; not the "
        f"held-out cases. Triangles below the curves: a peer's weights came in {study.focus}; filled: they "
        "were used."
    )
    drawn = {site: _of_site(study, site) for site in study.sites}
    panels = [Panel(site, _panel(study, site, found)) for site, found in drawn.items() if found]
    if not panels:
        absent = "No training log was found beside the predictions, so there are no learning curves."
        return Section("curves", "Learning curves", lead, absent=absent)
    longest = max(len(t.epochs) for found in drawn.values() for t in found.values())
    thinned = f" Of {longest} epochs about {SHOWN_POINTS} are drawn." if longest > SHOWN_POINTS else ""
    shown = [arm for arm in study.arms if any(arm in found for found in drawn.values())]
    figure = Figure("Pseudo Dice by epoch", f"One panel for each site.{thinned}", panels, _keys(study, shown))
    return Section("curves", "Learning curves", lead, [figure])


def _of_site(study: Study, site: str) -> dict[str, Training]:
    found = {arm: study.trainings.get((site, arm)) for arm in study.arms}
    return {arm: training for arm, training in found.items() if training and training.epochs}


def smoothed(values: Sequence[float]) -> list[float]:
    """The exponential mean, from the first number on; nan leaves it as it was.

    >>> smoothed([math.nan, 1.0, 0.0])
    [nan, 1.0, 0.7]
    """
    means, mean = [], math.nan
    for value in values:
        if not math.isnan(value):
            mean = value if math.isnan(mean) else SMOOTHING * mean + (1 - SMOOTHING) * value
        means.append(mean)
    return means


def _panel(study: Study, site: str, found: Mapping[str, Training]) -> Markup:
    dice = {arm: smoothed([each.mean_dice for each in training.epochs]) for arm, training in found.items()}
    last = max(each.number for training in found.values() for each in training.epochs)
    across = Scale(0, max(1, last), LEFT, RIGHT)
    up = scale_of([value for values in dice.values() for value in values], BOTTOM - 16, TOP, within=(0, 1))
    parts = [left_axis(up, LEFT, RIGHT, "pseudo Dice (0 to 1)"), bottom_axis(across, TOP, BOTTOM, "epoch")]
    for arm, training in found.items():
        step = max(1, math.ceil(len(training.epochs) / SHOWN_POINTS))
        points = [(across(each.number), up(d)) for each, d in zip(training.epochs, dice[arm], strict=True)]
        parts.append(_curve(study, arm, points[::step], dice[arm][-1]))
    if study.focus in found:
        parts += _exchanges(study, found[study.focus], across)
    said = ", ".join(f"{arm} {number(values[-1], 2)}" for arm, values in dice.items())
    return drawing(f"Pseudo Dice of site {site} by epoch; at the end: {said}.", *parts, height=HEIGHT)


def _curve(study: Study, arm: str, points: Sequence[tuple[float, float]], last: float) -> Markup:
    title = element("title", f"{arm}: {number(last)} at the end")
    dash = DASHES[study.place(arm) % len(DASHES)]
    return element("g", title, line(points, stroke=study.colour(arm), stroke_dasharray=dash, class_="curve"))


def _exchanges(study: Study, training: Training, across: Scale) -> list[Markup]:
    colour = study.colour(study.focus)
    return [
        told(
            "path",
            f"round {each.number}, epoch {each.epoch}: {each.peer}" + ("" if each.used else ", not used"),
            d=_triangle(across(each.epoch), BOTTOM - 2),
            fill=colour if each.used else "none",
            stroke=colour,
        )
        for each in training.rounds
    ]


def _triangle(x: float, y: float) -> str:
    return f"M{x:.1f} {y - 8:.1f}L{x + 4:.1f} {y:.1f}L{x - 4:.1f} {y:.1f}Z"


def _keys(study: Study, arms: Sequence[str]) -> list[Key]:
    found = []
    for arm in arms:
        dash = DASHES[study.place(arm) % len(DASHES)]
        stroke = line([(0, 8), (30, 8)], stroke=study.colour(arm), stroke_dasharray=dash, class_="curve")
        found.append(Key(drawing("", stroke, width=30, height=16), arm))
    colour = study.colour(study.focus)
    triangle = element("path", d=_triangle(8, 12), fill=colour, stroke=colour)
    return [*found, Key(drawing("", triangle, width=16, height=16), f"a peer's weights came ({study.focus})")]
