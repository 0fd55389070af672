"""The copy of an outbox on a relay: whole at any moment, never older, never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from courier_kit import PLANS, SCHEMA, SIZES, offer

from peer_sync import names
from peer_sync.errors import ConfigError, TransportError
from peer_sync.relay import publish
from peer_sync.transport.folder import FolderTransport


class Recording(FolderTransport):
    """Notes what is done, and fails before the given step."""

    def __init__(self, path: Path, steps: int = 1000) -> None:
        super().__init__(path)
        self.done: list[tuple[str, str]] = []
        self.steps = steps

    def put(self, source: Path, name: str) -> None:
        self._step("put", name)
        super().put(source, name)

    def remove(self, name: str) -> None:
        self._step("remove", name)
        super().remove(name)

    def _step(self, what: str, name: str) -> None:
        if len(self.done) == self.steps:
            raise TransportError("cut")
        self.done.append((what, name))


@pytest.fixture
def relay(tmp_path) -> Path:
    folder = tmp_path / "relay"
    folder.mkdir()
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_peer_collects_from_the_relay(north, south, relay):
    """The copy is as good as the outbox."""
    manifest = offer(south)

    published = south.publish(FolderTransport(relay))

    assert (published.files, published.sequence) == (3, manifest.sequence)
    assert published.bytes == sum((south.outbox / name).stat().st_size for name in listing(south.outbox))
    delivery = north.collect("south", FolderTransport(relay), PLANS, SCHEMA, SIZES, 1)
    assert delivery.manifest == manifest


def test_a_second_copy_puts_only_what_is_new_and_removes_what_is_old(south, relay):
    """Of five offers the last three are on the relay, as in the outbox."""
    for _ in range(3):
        offer(south)
    south.publish(FolderTransport(relay))
    offer(south), offer(south)
    transport = Recording(relay)

    publish(south.outbox, transport)

    assert listing(relay) == listing(south.outbox)
    assert [what for what, _ in transport.done] == ["put"] * 6 + ["remove"] * 6


def test_nothing_new_moves_nothing_and_leaves_no_line(south, relay):
    """The ledger knows copies, not looks."""
    offer(south)
    south.publish(FolderTransport(relay))

    assert south.publish(FolderTransport(relay)).files == 0

    events = [line for line in south.ledger.path.read_text().splitlines() if '"publish"' in line]
    assert len(events) == 1


@pytest.mark.parametrize("steps", range(12))
def test_a_copy_cut_anywhere_leaves_whole_offers_only(north, south, relay, steps):
    """After every step a reader finds an offer that it accepts, and the next copy completes."""
    first = offer(south)
    south.publish(FolderTransport(relay))
    for _ in range(3):
        offer(south)

    with pytest.raises(TransportError, match="cut"):
        publish(south.outbox, Recording(relay, steps))

    found = north.collect("south", FolderTransport(relay), PLANS, SCHEMA, SIZES, 1).manifest
    assert found.sequence >= first.sequence
    publish(south.outbox, FolderTransport(relay))
    assert listing(relay) == listing(south.outbox)


def test_the_manifest_comes_last_and_goes_first(south, relay):
    """Where a manifest is, its offer is."""
    for _ in range(3):
        offer(south)
    publish(south.outbox, FolderTransport(relay))
    offer(south)
    transport = Recording(relay)

    publish(south.outbox, transport)

    endings = [(what, name.partition(".")[2]) for what, name in transport.done]
    payload, sig, manifest = "safetensors", "json.sig", "json"
    assert endings == [
        ("put", payload),
        ("put", sig),
        ("put", manifest),
        ("remove", manifest),
        ("remove", sig),
        ("remove", payload),
    ]


def test_what_an_interrupted_copy_left_is_removed(south, relay):
    """Unfinished files do not pile up on somebody else's disk."""
    (relay / ".part-0011223344556677").write_bytes(b"half")
    offer(south)

    publish(south.outbox, FolderTransport(relay))

    assert listing(relay) == listing(south.outbox)


def test_foreign_files_on_the_relay_stay(south, relay):
    """Only what has the name of an offer is ours."""
    (relay / "README.txt").write_text("do not touch")
    offer(south)

    publish(south.outbox, FolderTransport(relay))

    assert (relay / "README.txt").exists()


def test_an_emptied_relay_is_filled_again(south, relay):
    """Somebody has cleaned up; the next copy repairs it."""
    offer(south)
    publish(south.outbox, FolderTransport(relay))
    for path in relay.iterdir():
        path.unlink()

    publish(south.outbox, FolderTransport(relay))

    assert listing(relay) == listing(south.outbox)


def test_a_relay_with_newer_offers_is_left_alone(south, relay):
    """Two installations of one site, or a lost state folder: a person has to look."""
    for _ in range(2):
        offer(south)
    publish(south.outbox, FolderTransport(relay))
    for path in south.outbox.iterdir():
        if names.sequence_of(path.name) == 2:
            path.unlink()
    before = listing(relay)

    with pytest.raises(ConfigError, match="the relay holds offer 2, but the newest in our outbox is 1"):
        publish(south.outbox, FolderTransport(relay))

    assert listing(relay) == before


def test_an_offer_removed_meanwhile_is_passed_over(south, relay, monkeypatch):
    """A training goes on while the agent copies."""
    for _ in range(3):
        offer(south)

    class Slow(Recording):
        def put(self, source: Path, name: str) -> None:
            if not self.done:
                offer(south)
            super().put(source, name)

    publish(south.outbox, Slow(relay))

    assert names.newest_whole(listing(relay)) == 3
    publish(south.outbox, FolderTransport(relay))
    assert listing(relay) == listing(south.outbox)


def test_a_number_from_far_away_is_not_offered_as_ours(south, relay):
    """Who runs the relay must not talk us into a sequence that no peer would take."""
    offer(south)
    for name in ("9999999999.json", "9999999999.json.sig", f"9999999999-{'0' * 64}.safetensors"):
        (relay / name).touch()
    (relay / ".part-00").touch()

    with pytest.raises(ConfigError) as caught:
        publish(south.outbox, FolderTransport(relay))

    assert "sequence.json" not in caught.value.hint
    assert (relay / ".part-00").exists()
