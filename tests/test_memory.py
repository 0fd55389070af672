"""The memory of what was judged: one reading for one question."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from courier_kit import collect, offer

from peer_sync.mailbox import Mailbox
from peer_sync.memory import Judged, Memory


def test_each_question_reads_the_file_once(monkeypatch, north: Mailbox, south: Mailbox):
    """What is answered comes from one state of the file, however often another process replaces it."""
    manifest = offer(south)
    north.accept(collect(north, south))
    reads: Counter[str] = Counter()
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        reads[self.name] += 1
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    memory = Memory(north.state)

    judged = memory.judged("south")

    assert judged.sequence == 1
    assert judged.knows(1, manifest.to_bytes())
    assert judged.is_accepted
    assert reads == {"peer-south.json": 1}
    memory.remember("south", manifest, "refused")
    assert reads == {"peer-south.json": 2}


def test_a_peer_that_was_never_judged_is_no_error(tmp_path):
    """No file is the empty memory."""
    assert Memory(tmp_path).judged("south") == Judged()
