"""Reads a ledger back, line by line: it may be huge, cut by a crash, or still be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from peer_sync.manifest import MAX_NUMBER

MAX_LINE_BYTES = 64 * 1024
TEXTS = ("event", "peer", "verdict", "rule", "message")
NUMBERS = ("round", "sequence", "bytes")


@dataclass(frozen=True)
class Problem:
    """Something that went wrong: when, by which rule (may be empty), and in which words."""

    time: datetime
    rule: str
    message: str


@dataclass(frozen=True)
class Entry:
    """One line of a ledger, its types checked; None where it has null or nothing."""

    time: datetime
    event: str | None
    peer: str | None
    round: int | None
    sequence: int | None
    bytes: int | None
    verdict: str | None
    rule: str | None
    message: str | None
    trust: float | None

    @property
    def problem(self) -> Problem | None:
        """What went wrong in this exchange, if anything did."""
        if self.verdict not in ("refused", "failed"):
            return None
        return Problem(self.time, self.rule or "", self.message or self.verdict)

    @property
    def came(self) -> bool:
        """Whether something really came from the peer; a wrong host key is somebody else's."""
        if self.event != "collect":
            return False
        if self.verdict == "failed":
            return bool(self.bytes and self.sequence)
        return self.verdict in ("accepted", "refused") and self.rule != "host-key"


def read_entries(path: Path) -> Iterator[Entry | None]:
    """Every line of a ledger that is not empty; None for a line that is broken, cut, or over 64 KiB.

    Nothing when there is no such file. Raises OSError.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in bounded_lines(file):
            yield parse_entry(line)


def collected_bytes(entries: Iterable[Entry | None]) -> int:
    """All that was fetched from peers, refused offers and broken transfers too."""
    return sum(each.bytes or 0 for each in entries if each is not None and each.event == "collect")


def parse_entry(line: bytes) -> Entry | None:
    """Read one line; None when it is not what a ledger holds."""
    try:
        content = json.loads(line)
        time = datetime.fromisoformat(content["time"])
        texts = {name: _text(content.get(name)) for name in TEXTS}
        numbers = {name: _number(content.get(name)) for name in NUMBERS}
        trust = _number(content.get("trust"), float)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Entry(time=time, trust=trust, **texts, **numbers) if time.tzinfo else None


def _text(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if value is not None and not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _number(value: Any, kind: type = int) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if value is None:
        return None
    if type(value) not in (int, kind) or not abs(value) <= MAX_NUMBER:
        raise TypeError("expected a number")
    return kind(value)


def bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of a file that are not empty; of one over 64 KiB, only its beginning."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        if line.strip():
            yield line
