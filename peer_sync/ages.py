"""Ages as people say and type them."""

from __future__ import annotations

import re
from datetime import timedelta

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORDS = (("d", 2 * 86400, 86400), ("h", 2 * 3600, 3600), ("min", 2 * 60, 60), ("s", 0, 1))
MAX_DIGITS = 6
AGE = re.compile(rf"([1-9][0-9]{{0,{MAX_DIGITS - 1}}})([mhd])")


def age_words(age: timedelta) -> str:
    """An age in one unit, rounded down.

    >>> age_words(timedelta(minutes=119))
    '119 min'
    >>> age_words(timedelta(hours=47))
    '47 h'
    """
    seconds = int(age.total_seconds())
    for unit, least, size in WORDS:
        if seconds >= least:
            return f"{seconds // size} {unit}"
    return "0 s"


def ago(age: timedelta) -> str:
    """The same in a sentence; a time that is still to come is called so.

    >>> ago(timedelta(days=3))
    '3 d ago'
    >>> ago(timedelta(minutes=-5))
    '5 min in the future'
    """
    return f"{age_words(age)} ago" if age >= timedelta(seconds=-1) else f"{age_words(-age)} in the future"


def parse_age(text: str) -> timedelta:
    """The reverse: ``90m``, ``12h``, ``2d``. Raises ValueError.

    >>> parse_age("12h")
    datetime.timedelta(seconds=43200)
    """
    match = AGE.fullmatch(text)
    if not match:
        raise ValueError(f"expected an age such as 90m, 12h or 2d, found {text[:40]!r}")
    return timedelta(seconds=int(match[1]) * SECONDS[match[2]])
