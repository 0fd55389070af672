"""The ledger, on a disk that was full."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from peer_sync.ledger import Ledger


def test_a_line_begins_behind_half_a_line(tmp_path):
    """A full disk or a power cut has left half of the last one; the next is readable."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.write(event="offer", round=1)
    ledger.path.write_bytes(ledger.path.read_bytes()[:-20])

    ledger.write(event="offer", round=2)

    half, whole = ledger.path.read_text().splitlines()
    assert json.loads(whole)["round"] == 2
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(half)


def test_a_full_disk_costs_the_line_only(monkeypatch, caplog, tmp_path):
    """What the line is about goes on; a warning says which file."""
    ledger = Ledger(tmp_path / "ledger.jsonl")

    def full(self: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    ledger.write(event="offer", round=1)

    assert "ledger.jsonl: No space left on device" in caplog.text
