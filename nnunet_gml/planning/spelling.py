"""Names of organs that look like other spellings of one another: ``Parotid_L`` and ``left parotid``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

LIKELY = 0.8
"""Similarity, 0 to 1, from which another spelling is asked about."""
SIDES = {
    "l": "left",
    "lt": "left",
    "left": "left",
    "sin": "left",
    "r": "right",
    "rt": "right",
    "right": "right",
    "dex": "right",
}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
GLUED_SIDE = re.compile(r"(\w{3,})(left|right)|(left|right)(\w{3,})")


def likely_pairs(own: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str]]:
    """Names that probably mean the same class, each used once, the most alike first.

    Example:
        >>> likely_pairs(["Parotid_L", "Parotid_R"], ["ParotidR", "parotid left"])
        [('Parotid_L', 'parotid left'), ('Parotid_R', 'ParotidR')]
    """
    scored = sorted(
        ((likeness(one, other), one, other) for one in own for other in theirs),
        key=lambda found: (-found[0], found[1], found[2]),
    )
    pairs: list[tuple[str, str]] = []
    for score, one, other in scored:
        if score >= LIKELY and not any(one == left or other == right for left, right in pairs):
            pairs.append((one, other))
    return pairs


def likeness(one: str, other: str) -> float:
    """How alike two names are, 0 to 1; 0 where side or number differs, as in ``C1`` and ``C2``."""
    (words, marks), (other_words, other_marks) = _parts(one), _parts(other)
    if marks != other_marks:
        return 0.0
    return SequenceMatcher(None, " ".join(words), " ".join(other_words), autojunk=False).ratio()


def _parts(name: str) -> tuple[list[str], list[str]]:
    """A name's words, sorted, and apart from them what must be equal: side, numbers, single letters."""
    found = WORD.findall(name) or [name]
    split = [part for word in found for part in _unglued(word.lower())]
    words = [SIDES.get(word, word) for word in split]
    marks = [word for word in words if word in SIDES.values() or word.isdigit() or len(word) == 1]
    return sorted(word for word in words if word not in marks), sorted(marks)


def _unglued(word: str) -> list[str]:
    match = GLUED_SIDE.fullmatch(word)
    return [part for part in match.groups() if part] if match else [word]
