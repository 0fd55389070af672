"""Drawings as SVG in a page: they follow its light and dark, scale, print, and tell numbers when asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 380, 250
"""Of a panel, in CSS pixels: what fits a phone."""
TEXT_PX = 7.3
"""Mean width of a character of the pages' small text: labels are given so much room."""


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """One element; every text and attribute is escaped, what is markup already stays.

    Underscores in names of attributes become hyphens; one at the end is dropped.

    >>> str(element("text", "a < b", x=1.25, text_anchor="end", class_="tick"))
    '<text x="1.2" text-anchor="end" class="tick">a &lt; b</text>'
    """
    words = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(words), Markup("").join(children))


def drawing(alt: str, *children: str, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """A whole picture with its text for those who cannot see it."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        preserveAspectRatio="xMinYMin meet",
        role="img",
        aria_label=alt,
        style=f"--width:{width:.0f}px",
    )


def text(x: float, y: float, words: object, anchor: str = "start", **attributes: str | float) -> Markup:
    """Words; `anchor` is start, middle or end."""
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, **attributes)


def told(shape_name: str, words: str, **attributes: str | float) -> Markup:
    """A shape that says something when pointed at."""
    return element(shape_name, element("title", words), **attributes)


def line(points: Iterable[tuple[float, float]], **attributes: str | float) -> Markup:
    """A curve; it is interrupted where a coordinate is nan."""
    words, pen = [], "M"
    for x, y in points:
        if math.isnan(x) or math.isnan(y):
            pen = "M"
            continue
        words.append(f"{pen}{_short(x)} {_short(y)}")
        pen = "L"
    return element("path", d="".join(words), fill="none", **attributes)


def cut(words: str, room_px: float) -> str:
    """As many letters as have room, the last one a dot mark where some are missing."""
    letters = max(3, int(room_px / TEXT_PX))
    return words if len(words) <= letters else words[: letters - 1] + "…"


@dataclass(frozen=True)
class Scale:
    """Numbers on a line of pixels."""

    low: float
    high: float
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        """Where a number lies."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self, count: int = 5, is_whole: bool = False) -> list[float]:
        """Round numbers within the scale, at most about ``count``."""
        found = MaxNLocator(count, integer=is_whole).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(tick) for tick in found if self.low - slack <= tick <= self.high + slack]


def scale_of(
    values: Iterable[float], start_px: float, end_px: float, within: tuple[float, float] | None = None
) -> Scale:
    """A scale on which all numbers have room, with a little air; within bounds, if there are any."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - air, high + air
    if within:
        low, high = max(low, within[0]), min(high, within[1])
    return Scale(low, high, start_px, end_px)


def left_axis(scale: Scale, from_px: float, to_px: float, title: str) -> Markup:
    """Grid lines from left to right, with numbers at their left, and the axis's name turned upwards."""
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(element("line", x1=from_px, x2=to_px, y1=y, y2=y, class_="grid"))
        parts.append(text(from_px - 6, y + 4, _tick(tick), "end", class_="tick"))
    middle = (scale.start_px + scale.end_px) / 2
    turn = f"rotate(-90 12 {middle:.0f})"
    return element("g", *parts, text(12, middle, title, "middle", transform=turn, class_="label"))


def bottom_axis(scale: Scale, from_px: float, to_px: float, title: str, is_whole: bool = True) -> Markup:
    """Numbers below a panel that reaches down to ``to_px``."""
    parts = [element("line", x1=scale.start_px, x2=scale.end_px, y1=to_px, y2=to_px, class_="axis")]
    for tick in scale.ticks(7, is_whole):
        x = scale(tick)
        parts.append(element("line", x1=x, x2=x, y1=from_px, y2=to_px, class_="grid"))
        parts.append(text(x, to_px + 15, _tick(tick), "middle", class_="tick"))
    middle = (scale.start_px + scale.end_px) / 2
    return element("g", *parts, text(middle, to_px + 31, title, "middle", class_="label"))


def mark(x: float, y: float, place: int, colour: str, words: str, size: float = 4.0) -> Markup:
    """The mark of the series at this place: colours alone are not enough for everybody."""
    shapes: Sequence[tuple[str, dict[str, str | float]]] = (
        ("circle", {"cx": x, "cy": y, "r": size}),
        ("rect", {"x": x - size * 0.9, "y": y - size * 0.9, "width": 1.8 * size, "height": 1.8 * size}),
        ("path", {"d": _corners(x, y, size * 1.25, 3, -90)}),
        ("path", {"d": _corners(x, y, size * 1.25, 4, 0)}),
        ("path", {"d": _corners(x, y, size * 1.25, 3, 90)}),
        ("path", {"d": _corners(x, y, size * 1.15, 5, -90)}),
    )
    name, place_attributes = shapes[place % len(shapes)]
    return told(name, words, fill=colour, class_="mark", **place_attributes)


def _corners(x: float, y: float, radius: float, count: int, start_degrees: float) -> str:
    angles = [math.radians(start_degrees + 360 * k / count) for k in range(count)]
    points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
    return "M" + "L".join(f"{_short(px)} {_short(py)}" for px, py in points) + "Z"


def _tick(value: float) -> str:
    """With a real minus sign."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
