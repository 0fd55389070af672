"""Sentences from elsewhere, as a page or a terminal may show them."""

from __future__ import annotations

MAX_CHARACTERS = 300


def printable(words: str) -> str:
    r"""What was said, without characters that are obeyed instead of shown, and not for ever.

    >>> printable("gone\x1b[2J")
    'gone?[2J'
    """
    shown = "".join(letter if letter.isprintable() else "?" for letter in words)
    return shown if len(shown) <= MAX_CHARACTERS else f"{shown[:MAX_CHARACTERS]} ..."
