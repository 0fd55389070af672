"""The methods side by side: what each gained, with which certainty, at which cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from nnunet_gml.comparison.notes import FEW_PATIENTS
from nnunet_gml.report.blocks import (
    DASH,
    Cell,
    Figure,
    Panel,
    Section,
    Table,
    best_marked,
    cell,
    gain_cell,
    interval,
    number,
    p_value,
)
from nnunet_gml.report.study import Row, Study, known_mean
from nnunet_gml.report.svg import Scale, bottom_axis, cut, drawing, element, line, mark, scale_of, text

NAMES_PX, ROW_PX, WIDTH_PX, VALUES_PX = 165, 32, 860, 215
MEASURES = (("nsd", "NSD", 3), ("hd95_mm", "HD95, mm", 1), ("volume_error_ml", "volume error, ml", 1))


def methods(study: Study) -> Section:
    """All methods: the figure of gains, then the numbers."""
    lead = (
        f"Gain is the mean difference in Dice to {study.baseline} on the same held-out cases. The bar is the "
        "95 % interval, drawn over whole patients; where it crosses zero, chance may be enough to explain it."
    )
    patients = study.arm_row(study.focus)["patients"]
    if patients < FEW_PATIENTS:
        lead += f" With {patients:.0f} patients such intervals are too narrow."
    blocks: list[Figure | Table] = [*_forest(study), _table(study)]
    return Section("methods", "Methods side by side", lead + _on_choice(study), blocks)


def _on_choice(study: Study) -> str:
    """What the headline's method was chosen by, and whether another one is ahead of it."""
    words = ""
    if not study.asked_focus and len(study.candidates) > 1:
        kind = "that score their peers " if study.has_learners else ""
        words += (
            f" {study.focus} is looked at closely because its mean Dice is the highest of the "
            f"{len(study.candidates)} methods {kind}here; such a choice, made after seeing the results, "
            "flatters a little."
        )
    best = max(study.arms, key=study.dice)
    return words + ("" if best == study.focus else f" The highest mean Dice of all has {best}.")


def _forest(study: Study) -> list[Figure]:
    rows = {arm: study.arm_row(arm) for arm in study.arms if arm != study.baseline}
    known = {arm: row for arm, row in rows.items() if not math.isnan(row.gain.value)}
    if not known:
        return []
    ends = [end for row in known.values() for end in row.gain]
    scale = scale_of([0.0, *ends], NAMES_PX, WIDTH_PX - VALUES_PX - 12)
    bottom = 12 + ROW_PX * len(known)
    parts = [
        bottom_axis(scale, 8, bottom, f"gain in mean Dice over {study.baseline}", is_whole=False),
        element("line", x1=scale(0), x2=scale(0), y1=8, y2=bottom, class_="zero"),
    ]
    for place, (arm, row) in enumerate(known.items()):
        parts += _forest_row(study, arm, row, scale, 12 + ROW_PX * (place + 0.5))
    said = "; ".join(f"{arm} {number(row.gain.value, 3, sign=True)}" for arm, row in known.items())
    alt = f"Gain in mean Dice over {study.baseline} with 95 % intervals: {said}."
    svg = drawing(alt, *parts, width=WIDTH_PX, height=bottom + 38)
    caption = "Mean over cases and organs with 95 % interval. Right of the line: better."
    return [Figure(f"Gain in Dice over {study.baseline}", caption, [Panel("", svg, is_wide=True)])]


def _forest_row(study: Study, arm: str, row: Row, scale: Scale, y: float) -> list[Markup]:
    colour, around = study.colour(arm), interval(row.gain.low, row.gain.high, 3, sign=True)
    words = number(row.gain.value, 3, sign=True) + (f" ({around})" if around else "")
    style = "name focus" if arm == study.focus else "name"
    return [
        text(NAMES_PX - 12, y + 4, cut(arm, NAMES_PX - 14), "end", class_=style),
        line([(scale(row.gain.low), y), (scale(row.gain.high), y)], stroke=colour, class_="whisker"),
        mark(scale(row.gain.value), y, study.place(arm), colour, f"{arm}: {words}", 6),
        text(WIDTH_PX - VALUES_PX, y + 4, words, class_="value"),
    ]


def _table(study: Study) -> Table:
    shown = [each for each in MEASURES if each[0] in study.summary.arms]
    heads = ["method", "Dice", *(head for _, head, _ in shown), "gain in Dice", "p (Holm)", "effect size"]
    heads += ["fetched per site, MB", "training per site, min"]
    rows = [_row(study, arm, shown) for arm in study.arms]
    caption = (
        f"Means over the held-out cases of all sites. {study.baseline} is what gains are measured against; "
        f"below a number its 95 % interval. {DASH}: not known, or nothing to compare."
    )
    caption += " Times are those of simulated sites that share one machine." if study.record else ""
    marked = best_marked([row[1] for row in rows])
    return Table(caption, heads, [[row[0], best, *row[2:]] for row, best in zip(rows, marked, strict=True)])


def _row(study: Study, arm: str, shown: Sequence[tuple[str, str, int]]) -> list[Cell]:
    row = study.arm_row(arm)
    fetched = known_mean([study.fetched_bytes(site, arm) for site in study.sites])
    return [
        Cell(arm),
        cell(row["dice"], note=interval(row["dice_low"], row["dice_high"])),
        *(cell(row[name], digits) for name, _, digits in shown),
        gain_cell(*row.gain),
        p_value(row["p"]),
        cell(row["effect"], 2),
        cell(fetched / 1e6, 1),
        cell(study.mean_seconds(arm) / 60, 1),
    ]
