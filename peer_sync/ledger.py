"""One JSON line for every exchange."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

FIELDS = (
    "event",
    "peer",
    "round",
    "sequence",
    "bytes",
    "seconds",
    "retries",
    "verdict",
    "rule",
    "message",
    "trust",
)


class Ledger:
    """Appends to ``ledger.jsonl``; several threads may write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, **facts: str | int | float | None) -> None:
        """Append one line; facts that are not given are null.

        Raises:
            TypeError: a fact that the ledger has no column for.
        """
        unknown = facts.keys() - set(FIELDS)
        if unknown:
            raise TypeError(f"the ledger has no column {sorted(unknown)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, **{name: facts.get(name) for name in FIELDS}})
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
