"""What a report is made of: sections with figures and tables. How they look is the template's matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from markupsafe import Markup

from nnunet_gml.stats import p_text

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """One cell of a table: the text, the number that it sorts by, and a second line."""

    text: str
    value: float | None = None
    note: str = ""
    tone: Literal["", "good", "bad"] = ""
    is_best: bool = False
    is_sentence: bool = False


@dataclass(frozen=True)
class Table:
    """A table that a click on a head sorts. The first cell of a row names it."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] = ()
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a mark (SVG) and what it stands for."""

    mark: Markup
    words: str


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure, with its own small title."""

    title: str
    svg: Markup
    is_wide: bool = False


@dataclass(frozen=True)
class Figure:
    """Panels with one caption and one legend; a row belongs side by side where there is room."""

    title: str
    caption: str
    panels: Sequence[Panel]
    keys: Sequence[Key] = ()
    is_row: bool = False
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Facts:
    """Names and what they are, as a list."""

    caption: str
    pairs: Sequence[tuple[str, str]]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: in the address line.
        title: its heading.
        lead: a sentence or two on how to read it.
        blocks: figures and tables; empty where there are no data.
        absent: why there are none, in one sentence.
    """

    name: str
    title: str
    lead: str
    blocks: Sequence[Table | Figure | Facts] = field(default=())
    absent: str = ""


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """A number for people: a real minus sign, and a dash for what is not known.

    >>> number(-0.0614, 2, sign=True), number(float("nan"))
    ('\\u22120.06', '\\u2013')
    """
    if not math.isfinite(value):
        return DASH
    shown = round(value, digits) + 0.0  # of -0.0 makes 0.0
    words = f"{shown:{'+' if sign and shown else ''}.{digits}f}"
    return words.replace("-", MINUS)


def interval(low: float, high: float, digits: int = 3, sign: bool = False) -> str:
    """An interval in words; empty where it is not known.

    >>> interval(0.01, 0.125, 2)
    '0.01 to 0.12'
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, digits, sign)} to {number(high, digits, sign)}"


def megabytes(count: float) -> str:
    """Bytes as people read them: MB are 10^6 bytes.

    >>> megabytes(8_921_000), megabytes(120_000_000_000)
    ('8.9 MB', '120.0 GB')
    """
    if not math.isfinite(count):
        return DASH
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def minutes(seconds: float) -> str:
    """A duration as people read it.

    >>> minutes(90), minutes(7200)
    ('1.5 min', '2.0 h')
    """
    if not math.isfinite(seconds):
        return DASH
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def cell(value: float, digits: int = 3, sign: bool = False, note: str = "") -> Cell:
    """A number as a cell."""
    return Cell(number(value, digits, sign), value if math.isfinite(value) else None, note)


def p_value(value: float) -> Cell:
    """A p value as a cell."""
    return Cell(DASH) if math.isnan(value) else Cell(p_text(value), value)


def best_marked(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells; those with the highest number are marked."""
    known = [each.value for each in cells if each.value is not None]
    return [replace(each, is_best=bool(known) and each.value == max(known)) for each in cells]


def gain_cell(value: float, low: float = math.nan, high: float = math.nan, digits: int = 3) -> Cell:
    """A gain as a cell; its tone only where the interval leaves zero out."""
    tone: Literal["", "good", "bad"] = "good" if low > 0 else "bad" if high < 0 else ""
    plain = number(value, digits, sign=True)
    sorted_by = value if math.isfinite(value) else None
    return Cell(plain, sorted_by, interval(low, high, digits, sign=True), tone)
