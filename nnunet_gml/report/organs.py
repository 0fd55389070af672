"""Organ by organ: the spread of Dice over the cases, and the gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from markupsafe import Markup
from matplotlib.cbook import boxplot_stats

from nnunet_gml.report.blocks import Cell, Figure, Key, Panel, Section, Table, cell, gain_cell, number
from nnunet_gml.report.study import Row, Study, row_of
from nnunet_gml.report.svg import (
    TEXT_PX,
    WIDTH,
    Scale,
    cut,
    drawing,
    element,
    left_axis,
    line,
    mark,
    scale_of,
    text,
)

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 60, WIDTH - 8, 10, 186, 214
TURNED_PX = 150
"""Room for a method's name where there are many: they are turned by 30 degrees."""
SHOWN_ORGANS = 12
MOST_POINTS = 5000
"""In all panels together: of more cases each n-th is drawn, and the caption says so."""


def organs(study: Study) -> Section:
    """A panel for each organ, the one that gained least first, and a table."""
    lead = (
        "Each dot is one held-out case of one site. The box holds the middle half of the cases, its line is "
        "the median; the whiskers reach the last case within 1.5 box heights. Organs that gained least come "
        "first."
    )
    order = sorted(study.classes, key=lambda name: _gain(study, name))
    missed = [name for name in order if _is_missed(study, name)]
    found = [name for name in order if name not in missed]
    boxes = [Panel(name, _panel(study, name)) for name in found[:SHOWN_ORGANS]]
    left_out = len(found) - len(boxes)
    caption = f"{left_out} more organs are in the table only. " if left_out else ""
    caption += f"No method finds {', '.join(missed)}. " if missed else ""
    caption += f"One of {step} dots is drawn." if (step := _step(study)) > 1 else ""
    figure = Figure("Dice per organ", caption, boxes, _keys(study))
    return Section("organs", "Organ by organ", lead, [figure, _table(study, order), *_groups(study)])


def _step(study: Study) -> int:
    """One of so many cases is drawn."""
    shown = len(study.scores) * min(1.0, SHOWN_ORGANS / len(study.classes))
    return max(1, math.ceil(shown / MOST_POINTS))


def _is_missed(study: Study, name: str) -> bool:
    """Dice is 0 in every case, whatever the method: nothing to draw."""
    values = [value for arm in study.arms for value, _ in _values(study, name, arm)]
    return bool(values) and not any(values)


def _gain(study: Study, name: str) -> float:
    gain = row_of(study.summary.classes, **{"class": name, "arm": study.focus}).gain.value
    return math.inf if math.isnan(gain) else gain


def _values(study: Study, name: str, arm: str) -> list[tuple[float, str]]:
    chosen = study.by_class_and_arm.get((name, arm), study.scores[:0]).dropna(subset=["dice"])
    cases = [f"{site} {case}" for site, case in zip(chosen["site"], chosen["case"], strict=True)]
    return list(zip(map(float, chosen["dice"]), cases, strict=True))


def _panel(study: Study, name: str) -> Markup:
    found = {arm: _values(study, name, arm) for arm in study.arms}
    every = [value for values in found.values() for value, _ in values]
    scale = scale_of(every, BOTTOM, TOP, within=(-0.02, 1.02))
    room, is_turned = (RIGHT - LEFT) / len(study.arms), len(study.arms) > 3
    parts: list[Markup] = [left_axis(scale, LEFT, RIGHT, "Dice (0 to 1)")]
    for place, (arm, values) in enumerate(found.items()):
        x = LEFT + room * (place + 0.5)
        parts += _box(study, arm, values, scale, x, min(26.0, room * 0.3))
        parts.append(_name(cut(arm, TURNED_PX if is_turned else room), x, is_turned))
    medians = {
        arm: median(value for value, _ in values) if values else math.nan for arm, values in found.items()
    }
    said = ", ".join(f"{arm} {number(value, 2)}" for arm, value in medians.items())
    longest = max(len(cut(arm, TURNED_PX)) for arm in study.arms)
    height = BOTTOM + 26 + TEXT_PX / 2 * longest if is_turned else HEIGHT
    return drawing(f"Dice of {name}, median per method: {said}.", *parts, height=height)


def _name(words: str, x: float, is_turned: bool) -> Markup:
    if not is_turned:
        return text(x, BOTTOM + 20, words, "middle", class_="tick")
    turn = f"rotate(-30 {x:.0f} {BOTTOM + 16})"
    return text(x + 6, BOTTOM + 16, words, "end", transform=turn, class_="tick")


def _box(
    study: Study, arm: str, values: Sequence[tuple[float, str]], scale: Scale, x: float, half: float
) -> list[Markup]:
    if not values:
        return [text(x, (TOP + BOTTOM) / 2, "none", "middle", class_="tick")]
    colour, stats = study.colour(arm), boxplot_stats([value for value, _ in values])[0]
    low, first, middle, third, high = (scale(stats[name]) for name in ("whislo", "q1", "med", "q3", "whishi"))
    frame = {"x": x - half, "y": third, "width": 2 * half, "height": max(1.0, first - third)}
    return [
        _points(study, arm, values, scale, x, half),
        line([(x, low), (x, first)], stroke=colour, class_="thin"),
        line([(x, third), (x, high)], stroke=colour, class_="thin"),
        element("rect", **frame, stroke=colour, fill=colour, class_="box"),
        line([(x - half, middle), (x + half, middle)], stroke=colour, class_="median"),
    ]


def _points(
    study: Study, arm: str, values: Sequence[tuple[float, str]], scale: Scale, x: float, half: float
) -> Markup:
    """Every case, side by side as if by chance; of very many only each n-th."""
    step = _step(study)
    asides = [half * 0.19 * (number_ * 7 % 9 - 4) for number_ in range(len(values))]
    return element(
        "g",
        *(
            mark(x + aside, scale(value), study.place(arm), study.colour(arm), f"{case}: {value:.3f}", 2.6)
            for aside, (value, case) in zip(asides, sorted(values)[::step], strict=False)
        ),
        class_="faint",
    )


def _table(study: Study, order: Sequence[str]) -> Table:
    rows = []
    for name in order:
        facts = [row_of(study.summary.classes, **{"class": name, "arm": arm}) for arm in study.arms]
        note = "small organ" if any(row.holds("small") for row in facts) else ""
        rows.append([Cell(name, note=note), *map(_with_interval, facts)])
    caption = f"Mean Dice per organ, with the gain over {study.baseline} and its 95 % interval below."
    return Table(caption, ["organ", *study.arms], rows)


def _groups(study: Study) -> list[Table]:
    groups = study.summary.groups
    if not len(groups):
        return []
    rows = []
    for group in groups["group"].unique():
        facts = [row_of(groups, group=group, arm=arm) for arm in study.arms]
        rows.append([Cell(f"{group} organs"), *map(_with_interval, facts)])
    caption = f"Small organs apart: below {study.summary.small_ml:g} ml, by the median of the references."
    return [Table(caption, ["organs", *study.arms], rows)]


def _with_interval(row: Row) -> Cell:
    gain = gain_cell(*row.gain)
    note = "" if math.isnan(row.gain.value) else gain.text + (f" ({gain.note})" if gain.note else "")
    return replace(cell(row["dice"], note=note), tone=gain.tone)


def _keys(study: Study) -> list[Key]:
    return [
        Key(drawing("", mark(8, 8, study.place(arm), study.colour(arm), arm, 5), width=16, height=16), arm)
        for arm in study.arms
    ]
