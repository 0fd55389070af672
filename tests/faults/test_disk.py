"""A full disk, on the offering and on the collecting side; a small tmpfs, where that can be mounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_kit import PAGE_BYTES, SmallDisk
from process_kit import SIZE_BYTES, end, wait_for
from proxy_kit import doing_after, whole
from relay_kit import use_relay
from state_kit import ledger, visible_offers

from peer_sync.collecting import SPARE_BYTES
from peer_sync.ledger import Ledger
from peer_sync.site import Site

MIB = 1 << 20


@pytest.fixture
def small_disk(pair) -> Iterator[Callable[..., SmallDisk]]:
    """Puts a folder, north's own if nothing is said, on a disk of so many bytes."""
    made: list[SmallDisk] = []

    def make(size_bytes: int, folder: Path = pair.north.folder) -> SmallDisk:
        made.append(SmallDisk(folder, size_bytes))
        return made[-1]

    yield make
    for disk in made:
        disk.remove()


def test_the_disk_gets_full_in_an_offer(small_disk, start, record_property):
    """The disk gets full anywhere in an offer, from the first byte of the weights to the ledger's line.

    The offer fails as a whole or is out as a whole; with room again the next one is out, under a new
    number.
    """
    disk = small_disk(8 * MIB)
    north = start("north")
    rests = [0, 300_000, *(SIZE_BYTES + pages * PAGE_BYTES for pages in range(8))]
    used = []
    for round_, rest in enumerate(rests, start=1):
        prepare(north.site)
        disk.leave(rest)

        event = north.try_to_offer(2 * round_)

        visible = {offer.round for offer in visible_offers(north.site).values()}
        assert ("offered" in event) == (2 * round_ in visible), (rest, event)
        disk.empty()
        used.append(north.offer(2 * round_ + 1))
    assert used == sorted(set(used))
    assert len(ledger(north.site, broken_lines=1, verdict="offered")) >= len(rests)
    north.end("cannot write into", broken_lines=1)
    record_property("cases", len(rests))


def prepare(site: Site) -> None:
    """An empty outbox, whose clearing frees no page later, and a ledger whose next line needs a new page."""
    for path in (site.folder / "outbox").iterdir():
        path.unlink()
    ledger = Ledger(site.folder / "ledger.jsonl")
    ledger.write(event="filler", message="")
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    rest = -(sum(map(len, lines)) + len(lines[-1]) + 60) % PAGE_BYTES
    ledger.write(event="filler", message="x" * rest)


def test_a_training_with_a_full_disk(small_disk, start_both):
    """The disk is full when a round begins.

    The courier tells that nothing was offered and nothing fetched, and why; with room again both work
    in the next round.
    """
    disk = small_disk(SPARE_BYTES + 16 * MIB)
    north, south = start_both()
    south.offer(1)
    disk.leave(0)

    north.exchange(1, "south")
    wait_for(lambda: "our offer of round 1 was not published" in north.said(), "word about the offer")
    wait_for(lambda: "peer 'south', round 1, rule connection" in north.said(), "word about the peer")
    disk.empty()
    north.exchange(2, "south")

    north.accepted(2, "south", 1)
    wait_for(lambda: ledger(north.site, event="offer", verdict="offered", round=2), "offer of round 2")
    end(north, south)


def test_the_disk_gets_full_while_weights_arrive(pair, small_disk, start_both):
    """The disk gets full in the middle of a download.

    Told with the disk's own words, tried again, and with room again the weights come whole.
    """
    disk = small_disk(SPARE_BYTES + 16 * MIB)
    north, south = start_both()
    south.offer(1)
    pair.proxy.shape = doing_after(300_000, lambda: disk.leave(0))

    north.exchange(1, "south")
    wait_for(lambda: "No space left on device" in north.said(), "word about the disk")
    pair.proxy.shape = whole
    disk.empty()

    north.accepted(1, "south", 1)
    end(north, south)


def test_too_little_room_for_a_download(small_disk, start_both):
    """The disk has room for the weights, but not 64 MiB more.

    Nothing is fetched but manifest and signature; with room again the weights come.
    """
    disk = small_disk(SPARE_BYTES + 16 * MIB)
    north, south = start_both()
    south.offer(1)
    disk.leave(SPARE_BYTES)

    north.exchange(1, "south")
    wait_for(lambda: "rule connection: disk: expected" in north.said(), "word about the disk")
    disk.empty()

    north.accepted(1, "south", 1)
    end(north, south)


def test_the_relays_disk_is_full(pair, small_disk, start_both):
    """The disk of the relay is full.

    Told, tried again, nothing half is visible there; with room again the offer is.
    """
    folder = pair.south.path.parent
    disk = small_disk(8 * MIB, folder / "relay")
    use_relay(folder)
    north, south = start_both()
    disk.leave(500_000)

    south.exchange(1, "north")
    wait_for(lambda: "relay, round 1: " in south.said(), "word about the relay")
    assert visible_offers(pair.south, disk.folder) == {}
    disk.empty()

    wait_for(lambda: ledger(south.site, event="publish", verdict="published"), "offer at the relay")
    assert visible_offers(pair.south, disk.folder) == visible_offers(pair.south)
    end(north, south)
