"""One JSON line for every exchange."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

from peer_sync.storage import append_line

log = logging.getLogger(__name__)

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
    """Appends to ``ledger.jsonl``; several threads and processes may write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, **facts: str | int | float | None) -> None:
        """Append one line; facts that are not given are null.

        A full disk costs the line, with a warning, and not the exchange that it is about.

        Raises:
            TypeError: a fact that the ledger has no column for.
        """
        unknown = facts.keys() - set(FIELDS)
        if unknown:
            raise TypeError(f"the ledger has no column {sorted(unknown)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, **{name: facts.get(name) for name in FIELDS}})
        try:
            with self._lock:
                append_line(self.path, line.encode() + b"\n")
        except OSError as error:
            log.warning("cannot write into %s: %s", self.path, error.strerror)
