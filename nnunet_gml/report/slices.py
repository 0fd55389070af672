"""Example slices, worst cases first: the contours of the reference, of the baseline and of one method."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from contourpy import contour_generator
from markupsafe import Markup
from PIL import Image

from nnunet_gml.palette import ON_IMAGES
from nnunet_gml.report.blocks import Cell, Figure, Key, Panel, Section, Table, cell, number
from nnunet_gml.report.study import Study
from nnunet_gml.report.svg import drawing, element, line
from nnunet_gml.report.views import REFERENCE, Array, View, view_of

if TYPE_CHECKING:
    from nnunet_gml.comparison.predicted import Predicted

LISTED_CASES = 12
WIDTH_PX, MOST_PIXELS = 300.0, 320
DASHES = ("", "6 2", "2 2")
"""One for every time that the colours begin again."""


def slices(study: Study, count: int) -> Section:
    """The worst cases as a table, and ``count`` of them as pictures."""
    lead = (
        f"The cases with the lowest mean Dice of {study.focus} come first. Shown is the slice in which the "
        "methods together have the most wrong voxels; white and dashed where a method differs from it: the "
        "reference. If the images show patients, treat this page as you treat the images."
    )
    worst = _worst(study)
    drawn = (_figure(study, site, case, place) for place, (site, case) in enumerate(worst[:count]))
    figures = [figure for figure in drawn if figure]
    if count and not figures:
        lead = "No images were found beside the predictions, so the worst cases are only listed."
    elif not count:
        lead = "Pictures were left out on request; the worst cases are only listed."
    return Section("cases", "Worst cases", lead, [_list(study, worst[:LISTED_CASES]), *figures])


def _worst(study: Study) -> list[tuple[str, str]]:
    ours = study.scores[study.scores["arm"] == study.focus].dropna(subset=["dice"])
    means = ours.groupby(["site", "case"], sort=False)["dice"].mean().sort_values(kind="stable")
    return [(str(site), str(case)) for site, case in means.index]


def _list(study: Study, worst: Sequence[tuple[str, str]]) -> Table:
    shown_arms = list(dict.fromkeys((study.focus, study.baseline)))
    rows = []
    for site, case in worst:
        of_case = study.scores[(study.scores["site"] == site) & (study.scores["case"] == case)]
        ours = of_case[of_case["arm"] == study.focus].dropna(subset=["dice"]).sort_values("dice")
        lowest = ours.iloc[0]
        means = [float(of_case[of_case["arm"] == arm]["dice"].mean()) for arm in shown_arms]
        far = float(ours["hd95_mm"].max()) if "hd95_mm" in ours else math.nan
        organ = Cell(str(lowest["class"]), note=f"Dice {number(float(lowest['dice']), 2)}")
        rows.append([Cell(case), Cell(site), *map(cell, means), organ, cell(far, 1)])
    heads = ["case", "site", *(f"{arm}: Dice" for arm in shown_arms), "worst organ", "largest HD95, mm"]
    return Table(f"The {len(rows)} cases with the lowest mean Dice of {study.focus}.", heads, rows)


def _figure(study: Study, site: str, case: str, place: int) -> Figure | None:
    arms = list(dict.fromkeys((study.baseline, study.focus)))
    found = {arm: each for arm in arms if (each := _with_case(study, site, arm, case))}
    view = view_of(found, case) if len(found) == len(arms) else None
    if view is None:
        return None
    titles = {REFERENCE: REFERENCE, **{arm: _title(study, site, arm, case) for arm in arms}}
    panels = [
        Panel(words, _picture(view, title, f"slice-{place}", f"{case}, {words}"))
        for title, words in titles.items()
    ]
    keys = [_key(view, name) for name in view.present]
    return Figure(f"{case}, site {site}", "", panels, keys, is_row=True)


def _with_case(study: Study, site: str, arm: str, case: str) -> Predicted | None:
    fitting = (each for each in study.predicted if (each.site, each.arm) == (site, arm))
    return next((each for each in fitting if case in each.cases), None)


def _title(study: Study, site: str, arm: str, case: str) -> str:
    scores = study.scores
    chosen = scores[(scores["site"] == site) & (scores["arm"] == arm) & (scores["case"] == case)]
    return f"{arm}: mean Dice {number(float(chosen['dice'].mean()), 2)}"


def _picture(view: View, title: str, name: str, alt: str) -> Markup:
    """The reference's panel holds the image, the others point at it."""
    rows, columns = view.picture.shape
    size = (WIDTH_PX / columns, WIDTH_PX / columns * view.aspect)
    height = rows * size[1]
    if title == REFERENCE:
        shown = element(
            "image",
            id=name,
            href=_png(view.picture),
            width=WIDTH_PX,
            height=height,
            preserveAspectRatio="none",
        )
        parts = [shown]
    else:
        parts = [element("use", href=f"#{name}")]
        for each in view.present:
            parts.append(_contour(view.mask(REFERENCE, each), size, each, stroke="#fff", class_="reference"))
    for each in view.present:
        colour, dash = _line(view, each)
        parts.append(
            _contour(
                view.mask(title, each), size, each, stroke=colour, stroke_dasharray=dash, class_="contour"
            )
        )
    return drawing(alt, *parts, width=WIDTH_PX, height=height)


def _contour(mask: Array, size: tuple[float, float], words: str, **attributes: str) -> Markup:
    """All outlines of a mask; pixels reach half a pixel around their middle."""
    if not mask.any():
        return Markup()
    found = contour_generator(z=np.pad(mask.astype(np.float32), 1), line_type="Separate").lines(0.5)
    outlines = cast("list[Array]", found)
    shapes = [line([((x - 0.5) * size[0], (y - 0.5) * size[1]) for x, y in each]) for each in outlines]
    return element("g", element("title", words), *shapes, **attributes)


def _png(picture: Array) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _line(view: View, name: str) -> tuple[str, str]:
    """Colour and dashes of a class, the same in all slices."""
    place = list(view.classes).index(name)
    return ON_IMAGES[place % len(ON_IMAGES)], DASHES[place // len(ON_IMAGES) % len(DASHES)]


def _key(view: View, name: str) -> Key:
    colour, dash = _line(view, name)
    shape = line([(0, 8), (24, 8)], stroke=colour, stroke_width=3, stroke_dasharray=dash)
    return Key(drawing("", shape, width=24, height=16), name)
