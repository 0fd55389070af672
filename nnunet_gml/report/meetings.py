"""Who met whom in which round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from markupsafe import Markup

from nnunet_gml.explanation import Round, mean
from nnunet_gml.report.blocks import Cell, Figure, Panel, Section, Table, number
from nnunet_gml.report.study import Study
from nnunet_gml.report.svg import cut, drawing, element, line, text

NAMES_PX, LANE_PX, COLUMN_PX, TOP_PX = 150, 46, 44, 0
SHOWN_ROUNDS = 24
"""Of more rounds each n-th is drawn, and the caption says so."""
T = TypeVar("T")


def meetings(study: Study) -> Section:
    """Arrows between sites by round, and how often each learnt from each."""
    lead = (
        f"{study.focus}: an arrow goes from the site whose weights were fetched to the site that took them "
        "in. The stronger the arrow, the more the peer was trusted; dashed: it was only compared, not used."
    )
    rounds = rounds_of(study)
    if not rounds:
        absent = (
            f"No list of rounds (gml_rounds.jsonl) of {study.focus}: nobody met anybody, or it was not kept."
        )
        return Section("meetings", "Who met whom", lead, absent=absent)
    sites = list(dict.fromkeys([*study.sites, *(r.peer for each in rounds.values() for r in each)]))
    return Section("meetings", "Who met whom", lead, [_graph(study, rounds, sites), _counts(rounds, sites)])


def rounds_of(study: Study) -> dict[str, Sequence[Round]]:
    """Of the method looked at closely, by site; without sites that have none."""
    found = {site: training.rounds for site, training in study.of_arm(study.focus).items()}
    return {site: rounds for site, rounds in found.items() if rounds}


def thinned(every: Sequence[T]) -> Sequence[T]:
    """All, or each n-th of very many.

    >>> list(thinned(range(48))) == list(range(0, 48, 2))
    True
    """
    return every[:: math.ceil(len(every) / SHOWN_ROUNDS)]


def _graph(study: Study, rounds: Mapping[str, Sequence[Round]], sites: Sequence[str]) -> Figure:
    lanes = {site: TOP_PX + LANE_PX * (place + 0.5) for place, site in enumerate(sites)}
    numbers = sorted({each.number for found in rounds.values() for each in found})
    shown = thinned(numbers)
    columns = {number_: NAMES_PX + COLUMN_PX * (place + 0.5) for place, number_ in enumerate(shown)}
    right = NAMES_PX + COLUMN_PX * len(shown)
    bottom = TOP_PX + LANE_PX * len(sites)
    parts: list[Markup] = [_arrow_head(study)]
    for site, y in lanes.items():
        parts.append(element("line", x1=NAMES_PX, x2=right, y1=y, y2=y, class_="lane"))
        parts.append(text(NAMES_PX - 10, y + 4, cut(site, NAMES_PX - 14), "end", class_="name"))
    step = 1 if len(shown) <= 20 else 5
    parts += [
        text(x, bottom + 8, n, "middle", class_="tick")
        for n, x in columns.items()
        if n == shown[0] or n % step == 0
    ]
    parts.append(text((NAMES_PX + right) / 2, bottom + 26, "round", "middle", class_="label"))
    for place, (site, found) in enumerate(rounds.items()):
        aside = (place - (len(rounds) - 1) / 2) * min(9.0, 0.7 * COLUMN_PX / len(rounds))
        parts += [
            _arrow(study, each, lanes[each.peer], lanes[site], columns[each.number] + aside, site)
            for each in found
            if each.number in columns
        ]
    alt = f"Meetings of {len(sites)} sites in {len(numbers)} rounds; the table below counts them."
    svg = drawing(alt, *parts, width=right + 8, height=bottom + 34)
    step = math.ceil(len(numbers) / len(shown))
    rest = f" One of {step} rounds is drawn." if step > 1 else ""
    return Figure(
        "Meetings by round",
        f"One line for each site, one column for each round.{rest}",
        [Panel("", svg, True)],
    )


def _arrow_head(study: Study) -> Markup:
    colour = study.colour(study.focus)
    shape = element("path", d="M0 0L6 3L0 6Z", fill=colour)
    head = element(
        "marker",
        shape,
        id="arrow",
        viewBox="0 0 6 6",
        markerUnits="userSpaceOnUse",
        markerWidth="9",
        markerHeight="9",
        refX="5",
        refY="3",
        orient="auto",
    )
    return element("defs", head)


def _arrow(study: Study, round_: Round, from_y: float, to_y: float, x: float, site: str) -> Markup:
    trusted = mean(round_.trust)
    strength = 1.0 if math.isnan(trusted) else 0.25 + 0.75 * trusted
    way = 1 if to_y > from_y else -1
    words = f"round {round_.number}: {site} took in weights of {round_.peer}"
    words += f", mean trust {number(trusted, 2)}" if not math.isnan(trusted) else ""
    words += "" if round_.used else "; not used"
    stroke = line(
        [(x, from_y + 3 * way), (x, to_y - 3 * way)],
        stroke=study.colour(study.focus),
        stroke_opacity=f"{strength:.2f}",
        stroke_dasharray="" if round_.used else "3 3",
        marker_end="url(#arrow)",
        class_="arrow",
    )
    start = element("circle", cx=x, cy=from_y, r=2.4, fill=study.colour(study.focus))
    return element("g", element("title", words), stroke, start)


def _counts(rounds: Mapping[str, Sequence[Round]], sites: Sequence[str]) -> Table:
    rows = []
    for site, found in rounds.items():
        cells = [Cell(site)]
        for peer in sites:
            met = [each for each in found if each.peer == peer]
            taken = sum(each.merged > 0 for each in met)
            cells.append(_count(len(met), taken) if peer != site else Cell("·"))
        rows.append([*cells, _count(len(found), sum(each.merged > 0 for each in found))])
    caption = (
        "How often the site in the row met the site in the column; below: how often it then took over the "
        "weights, in whole or in part."
    )
    return Table(caption, ["site", *sites, "all"], rows)


def _count(met: int, taken: int) -> Cell:
    return Cell(str(met), met, f"{taken} taken over" if met else "")
