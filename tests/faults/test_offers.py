"""What whoever holds the disk of the peer's outbox can do to it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from courier_kit import republish
from process_kit import SIZE_BYTES, SiteProcess, end, wait_for
from proxy_kit import Wire, cut_after, doing_after, whole
from site_process import weights_of
from state_kit import ledger, visible_offers

from peer_sync.names import payload_name
from peer_sync.orders import WITHOUT_PEER

MOMENTS = (0, 2500, 5000, 400_000)
"""Bytes from the server: nothing yet, login, manifest, weights."""


def empty(outbox: Path) -> None:
    """Remove every file."""
    for path in list(outbox.iterdir()):
        path.unlink()


def test_the_outbox_is_emptied_while_it_is_read(pair, start_both, record_property):
    """Somebody empties the peer's outbox at several moments of a transfer.

    No crash and no refusal; the peer's next offer, under a new number, is taken.
    """
    north, south = start_both()
    outbox, numbers = pair.south.folder / "outbox", []
    for round_, count in enumerate(MOMENTS, start=1):
        numbers.append(south.offer(2 * round_))
        pair.proxy.shape = doing_after(count, lambda: empty(outbox))

        north.exchange(2 * round_, "south")
        wait_for(lambda: not list(outbox.iterdir()), "empty outbox")
        pair.proxy.shape = whole
        numbers.append(south.offer(2 * round_ + 1))
        north.exchange(2 * round_ + 1, "south")

        wait_for(lambda: north.next("accepted")["sequence"] == numbers[-1], "newest offer")
    assert numbers == sorted(set(numbers))
    assert ledger(north.site, verdict="refused") == []
    end(north, south)
    record_property("cases", len(MOMENTS))


def test_the_offer_goes_while_it_is_read(pair, start_both):
    """The connection breaks in the middle of an offer, and the peer makes three more, so that this one goes.

    What had come of it is dropped, and the newest is taken whole.
    """
    north, south = start_both()
    south.offer(1)

    cut = cut_after(500_000)

    def shape(wire: Wire, data: bytes) -> None:
        if wire.offset + len(data) >= 500_000:
            for round_ in (2, 3, 4):
                south.offer(round_)
        cut(wire, data)

    pair.proxy.shape = shape
    north.exchange(1, "south")
    north.next("say")
    pair.proxy.shape = whole

    north.accepted(1, "south", 4)
    assert not list((pair.north.folder / "inbox" / ".begun-south").iterdir())
    end(north, south)


@pytest.fixture
def judged(pair, start_both) -> tuple[SiteProcess, SiteProcess]:
    """North, which has accepted south's second offer, and south, of whose first there is a copy."""
    north, south = start_both()
    south.offer(1)
    shutil.copytree(pair.south.folder / "outbox", pair.south.path.parent / "copy")
    south.offer(2)
    north.exchange(2, "south")
    north.accepted(2, "south", 2)
    return north, south


def put_back(copy: Path, outbox: Path) -> None:
    """Show these files and no others."""
    empty(outbox)
    shutil.copytree(copy, outbox, dirs_exist_ok=True)


def refused_by_sequence(north: SiteProcess, round_: int) -> str:
    """The message about a refusal by rule sequence, which names the peer."""
    north.exchange(round_, "south")
    message = north.next("say")["say"]
    assert message.startswith(f"peer 'south', round {round_}, rule sequence: ")
    assert message.endswith(WITHOUT_PEER)
    (line,) = ledger(north.site, event="collect", round=round_, verdict="refused")
    assert (line["rule"], line["peer"]) == ("sequence", "south")
    return message


def test_an_old_manifest_is_put_back(pair, judged):
    """Somebody puts an old offer, properly signed, back into the peer's outbox (rollback).

    Refused by rule sequence, by the peer's name, also after a restart of this site; the peer's next
    offer is taken.
    """
    north, south = judged
    put_back(pair.south.path.parent / "copy", pair.south.folder / "outbox")

    assert "expected more than 2, found 1" in refused_by_sequence(north, 3)
    south.offer(4)
    north.exchange(4, "south")

    north.accepted(4, "south", 4)
    end(north, south)


def test_an_old_manifest_is_put_back_while_this_site_is_down(pair, judged, start):
    """The same, while this site is not running.

    What was accepted last is on disk, so it is refused all the same.
    """
    north, south = judged
    north.kill()
    put_back(pair.south.path.parent / "copy", pair.south.folder / "outbox")
    north = start("north")

    refused_by_sequence(north, 3)
    end(north, south)


def test_an_old_manifest_under_a_new_name(pair, judged):
    """An old manifest, its signature and its weights are given the name of a newer number.

    Refused by rule sequence: the number inside the signed bytes counts.
    """
    north, south = judged
    outbox = pair.south.folder / "outbox"
    for path in (pair.south.path.parent / "copy").iterdir():
        shutil.copy(path, outbox / path.name.replace("0000000001", "0000000003", 1))

    assert "expected 3 as the file is called, found 1" in refused_by_sequence(north, 3)
    empty(outbox)
    end(north, south)


def test_another_offer_under_the_same_number(pair, judged):
    """The peer, or who has its key, puts other weights under a number that was accepted before.

    Refused by rule sequence, and never accepted; its next offer is taken.
    """
    north, south = judged
    outbox, offer = pair.south.folder / "outbox", visible_offers(pair.south)[2]
    weights = weights_of("south", 9, SIZE_BYTES)
    digest = sha256(weights).hexdigest()
    changed = replace(offer, sha256=digest, payload=payload_name(2, digest))
    (outbox / offer.payload).unlink()
    (outbox / changed.payload).write_bytes(weights)
    republish(SimpleNamespace(site=pair.south, outbox=outbox), changed)
    assert visible_offers(pair.south)[2] == changed

    assert "expected more than 2, found 2" in refused_by_sequence(north, 3)
    south.offer(4)
    north.exchange(4, "south")

    north.accepted(4, "south", 4)
    end(north, south)
