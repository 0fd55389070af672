"""Keeps refused offers with the rule that failed, within bounds."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from peer_sync.errors import RejectedError
from peer_sync.manifest import write_time
from peer_sync.storage import remove, write_durably

KEPT_REFUSALS = 8
ENTRY = re.compile(r"([0-9]{6,})-[a-z0-9-]*")


class Quarantine:
    """One folder per peer; the oldest refusals go first.

    Args:
        folder: where the peers' folders are.
        max_bytes: bound for all kept refusals of one peer; the newest stays in any case.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def put(self, peer: str, round: int, files: Path, error: RejectedError) -> Path:
        """Move the folder ``files`` (if it is there) here and write reason.json; returns the new place."""
        home = self.folder / peer
        home.mkdir(parents=True, exist_ok=True)
        number = max((_number(entry) for entry in home.iterdir()), default=0) + 1
        rule = re.sub(r"[^a-z0-9]+", "-", error.rule.lower())[:40]
        place = home / f"{number:06d}-{rule}"
        if files.is_dir():
            files.rename(place)
        else:
            place.mkdir()
        reason = {
            "time": write_time(datetime.now(UTC)),
            "peer": peer,
            "round": round,
            "rule": error.rule,
            "message": str(error),
        }
        write_durably(place / "reason.json", json.dumps(reason, indent=2).encode() + b"\n")
        self._trim(home)
        return place

    def _trim(self, home: Path) -> None:
        """Remove the oldest until number and bytes fit."""
        entries = sorted(filter(_number, home.iterdir()), key=_number, reverse=True)
        total = 0
        for kept, entry in enumerate(entries):
            total += sum(path.stat().st_size for path in entry.iterdir())
            if kept and (kept >= KEPT_REFUSALS or total > self.max_bytes):
                remove(entry)


def _number(entry: Path) -> int:
    match = ENTRY.fullmatch(entry.name)
    return int(match[1]) if match else 0
