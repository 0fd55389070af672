"""The inbox: downloads side by side share the room on the disk."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from courier_kit import PLANS, SCHEMA, SIZES, build_sites, offer

from peer_sync import collecting
from peer_sync.errors import TransportError
from peer_sync.inbox import Inbox
from peer_sync.mailbox import Mailbox
from peer_sync.transport.folder import FolderTransport

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free_bytes(monkeypatch) -> Callable[[int], None]:
    """Lets the disk have so much free room."""

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))

    return leave


def test_room_that_is_kept_is_not_given_twice(tmp_path, free_bytes):
    """100 bytes are free and 10 must stay: 60 + 10 fit; then 40 are left, and another 60 + 10 do not."""
    inbox = Inbox(tmp_path)
    free_bytes(100)

    with (
        inbox.room(60, 10, []),
        pytest.raises(TransportError, match="expected 70 free bytes for the weights, found 40"),
        inbox.room(60, 10, []),
    ):
        pass

    with inbox.room(60, 10, []):
        pass


def test_room_that_is_used_is_not_counted_twice(tmp_path, free_bytes):
    """Of 60 bytes 50 are written: 50 are free then, 10 of them kept; 30 + 10 fit beside it, not 31 + 10."""
    inbox, place = Inbox(tmp_path), tmp_path / "payload"
    free_bytes(100)

    with inbox.room(60, 10, [place]):
        place.write_bytes(bytes(50))
        free_bytes(50)
        with inbox.room(30, 10, []):
            pass
        with pytest.raises(TransportError, match="expected 41 free bytes for the weights, found 40"):
            inbox.room(31, 10, []).__enter__()


def test_what_came_before_needs_no_room(tmp_path, free_bytes):
    """A download that is continued: 60 bytes in all, 50 are there, so 10 + 10 are enough."""
    inbox, place = Inbox(tmp_path), tmp_path / "payload"
    place.write_bytes(bytes(50))
    free_bytes(20)

    with inbox.room(60, 10, [place]):
        pass


def test_room_comes_back_after_a_failure(tmp_path, free_bytes):
    """A broken download does not keep it."""
    inbox = Inbox(tmp_path)
    free_bytes(100)
    with pytest.raises(RuntimeError), inbox.room(60, 10, []):
        raise RuntimeError

    with inbox.room(60, 10, []):
        pass


@pytest.fixture
def boxes(tmp_path) -> Iterator[dict[str, Mailbox]]:
    """North collects, east and south offer."""
    opened = {name: Mailbox(site) for name, site in build_sites(tmp_path, ("north", "east", "south")).items()}
    yield opened
    for mailbox in opened.values():
        mailbox.close()


def test_two_downloads_side_by_side_need_room_for_two(boxes, free_bytes, monkeypatch):
    """1000 bytes are free: one of 700 fits, two do not; the second comes when the first is there."""
    north, found = boxes["north"], []
    monkeypatch.setattr(collecting, "SPARE_BYTES", 0)
    free_bytes(1000)
    for name in ("east", "south"):
        offer(boxes[name])

    def ask(peer: str, way: FolderTransport) -> None:
        north.accept(north.collect(peer, way, PLANS, SCHEMA, SIZES, 1))

    class Meanwhile(FolderTransport):
        """While east's payload comes, south is asked."""

        def get(self, name: str, target: Path, max_bytes: int) -> int:
            if name.endswith("safetensors"):
                with pytest.raises(
                    TransportError, match="expected 700 free bytes for the weights, found 300"
                ):
                    ask("south", FolderTransport(boxes["south"].outbox))
                found.append(name)
            return super().get(name, target, max_bytes)

    ask("east", Meanwhile(boxes["east"].outbox))
    ask("south", FolderTransport(boxes["south"].outbox))

    assert len(found) == 1
    assert [north.last_sequence(name) for name in ("east", "south")] == [1, 1]
