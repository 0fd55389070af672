"""How far two surfaces may lie apart and still count as one, per class."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from nnunet_gml.comparison.measures import DEFAULT_TOLERANCE_MM
from peer_sync.errors import ConfigError


def read_tolerances(words: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Tolerance of every class in mm, from ``MM`` (for all) and ``CLASS=MM`` (for one), the last one counts.

    >>> read_tolerances(["1.5", "eyes=1"], ["eyes", "mandible"])
    {'eyes': 1.0, 'mandible': 1.5}

    Raises:
        ConfigError: a number is none, or below 0; a class is unknown.
    """
    shared, own = DEFAULT_TOLERANCE_MM, {}
    for word in words:
        name, _, number = word.rpartition("=")
        if name and name not in classes:
            nearest = difflib.get_close_matches(name, classes, n=1, cutoff=0.0)
            raise ConfigError(
                f"--tolerance {word}: there is no class {name!r}", f"the nearest known one is {nearest[0]!r}"
            )
        if name:
            own[name] = _millimetres(number, word)
        else:
            shared = _millimetres(number, word)
    return {name: own.get(name, shared) for name in classes}


def _millimetres(number: str, word: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"--tolerance {word}: {number!r} is no length in mm", "write 2, or CLASS=1.5")
    return value
