"""How far each peer was believed, organ by organ and round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from nnunet_gml.explanation import Round, mean
from nnunet_gml.report.blocks import Figure, Key, Panel, Section, number
from nnunet_gml.report.meetings import rounds_of, thinned
from nnunet_gml.report.study import Study
from nnunet_gml.report.svg import cut, drawing, element, text, told

NAMES_PX, CELL_PX, ROW_PX, TOP_PX = 150, 34, 22, 6


def trust(study: Study) -> Section:
    """A map for each site: organs by rounds."""
    lead = (
        f"{study.focus}: for every round the trust in the peer that had come, from 0 (not believed) to 1, "
        "measured on fixed validation patches of the site. An organ that the site itself does not contour "
        "cannot be measured there; it is judged by what the peer declares."
    )
    panels = [
        Panel(site, _map(site, known), is_wide=len(known) > 8)
        for site, rounds in rounds_of(study).items()
        if (known := [each for each in rounds if each.trust])
    ]
    if not panels:
        absent = "No peer was ever scored organ by organ here: averaging trusts everybody alike."
        return Section("trust", "Trust per organ and peer", lead, absent=absent)
    step = element("rect", x=0, y=1, width=14, height=14, class_="faint-ground")
    full = element("rect", x=0, y=1, width=14, height=14, class_="trust")
    keys = [
        Key(drawing("", step, width=14, height=16), "0"),
        Key(drawing("", full, width=14, height=16), "1: fully believed"),
    ]
    caption = "One map for each site; below each column the round and the peer."
    longest = max(rounds_of(study).values(), key=len)
    caption += " Of many rounds only some are drawn." if len(thinned(longest)) < len(longest) else ""
    figure = Figure("Trust by round", caption, panels, keys)
    return Section("trust", "Trust per organ and peer", lead, [figure])


def _map(site: str, rounds: Sequence[Round]) -> Markup:
    classes, shown = rounds[0].classes, thinned(rounds)
    right, bottom = NAMES_PX + CELL_PX * len(shown), TOP_PX + ROW_PX * len(classes)
    ground = {"x": NAMES_PX, "y": TOP_PX, "width": right - NAMES_PX, "height": bottom - TOP_PX}
    parts = [
        element("rect", **ground, class_="faint-ground"),
        *(
            text(
                NAMES_PX - 8,
                TOP_PX + ROW_PX * (place + 0.5) + 4,
                cut(name, NAMES_PX - 10),
                "end",
                class_="name",
            )
            for place, name in enumerate(classes)
        ),
    ]
    for column, each in enumerate(shown):
        x = NAMES_PX + CELL_PX * column
        parts += [_square(each, place, x) for place in range(min(len(classes), len(each.trust)))]
        middle = x + CELL_PX / 2
        turn = f"rotate(-50 {middle:.0f} {bottom + 14})"
        parts.append(text(middle + 4, bottom + 14, _column(each), "end", transform=turn, class_="tick"))
    deepest = bottom + 30 + 5.2 * max(len(_column(each)) for each in shown)
    parts.append(text((NAMES_PX + right) / 2, deepest, "round and peer", "middle", class_="label"))
    means = [mean(values) for values in zip(*(each.trust for each in rounds), strict=True)]
    said = ", ".join(f"{name} {number(value, 2)}" for name, value in zip(classes, means, strict=False))
    alt = f"Trust of site {site} in its peers, mean over rounds: {said}."
    return drawing(alt, *parts, width=max(right + 4, 240), height=deepest + 8)


def _column(round_: Round) -> str:
    return cut(f"{round_.number} {round_.peer}", 90)


def _square(round_: Round, place: int, x: float) -> Markup:
    value, y = round_.trust[place], TOP_PX + ROW_PX * place
    size = {"x": x + 1, "y": y + 1, "width": CELL_PX - 2, "height": ROW_PX - 2}
    if math.isnan(value):
        return told("rect", "not known", **size, class_="unknown")
    words = f"{round_.classes[place]}, round {round_.number}, {round_.peer}: trust {value:.2f}"
    full = told("rect", words, **size, class_="trust", fill_opacity=f"{max(0.0, min(1.0, value)):.2f}")
    tone = "on-full" if value > 0.55 else "on-empty"
    words_on = text(
        x + CELL_PX / 2,
        y + ROW_PX / 2 + 4,
        f"{value:.1f}".removesuffix(".0").replace("0.", "."),
        "middle",
        class_=tone,
    )
    return full + words_on
