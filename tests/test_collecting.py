"""Collecting: broken downloads continue, old news is reported, memory of what was judged is exact."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from courier_kit import PLANS, SCHEMA, SIZES, collect, offer, republish

from peer_sync.errors import ConfigError, NotFoundError, RejectedError, TransportError
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import write_time
from peer_sync.site import load_site
from peer_sync.transport.folder import FolderTransport


class Breaking(FolderTransport):
    """Breaks a payload off after some bytes, once; counts what it moved."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self.after: int | None = after
        self.moved = 0

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        before = target.stat().st_size if target.exists() else 0
        if name.endswith("safetensors") and self.after is not None:
            size, self.after = self.after, None
            target.write_bytes((self.path / name).read_bytes()[:size])
            self.moved += size
            raise TransportError("connection lost")
        size = super().get(name, target, max_bytes)
        if name.endswith("safetensors"):
            self.moved += size - before
        return size


def ask(mailbox: Mailbox, transport: FolderTransport):
    return mailbox.collect("south", transport, PLANS, SCHEMA, SIZES, 1)


def begun(mailbox: Mailbox) -> list[Path]:
    return list((mailbox.inbox / ".begun-south").iterdir())


@pytest.mark.parametrize("after", [0, 1, 350, 699, 700])
def test_a_broken_download_continues_where_it_stopped(north, south, after):
    """No byte is fetched twice, and the ledger counts what really came."""
    offer(south)
    way = Breaking(south.outbox, after)
    with pytest.raises(TransportError, match="connection lost"):
        ask(north, way)

    delivery = ask(north, way)

    assert delivery.payload.read_bytes() == b"weights" * 100
    assert way.moved == 700
    assert 700 - after <= delivery.transferred_bytes < 700 - after + 2000
    assert begun(north) == []


def test_it_continues_after_a_restart(sites, north, south):
    """What had come survives the process."""
    offer(south)
    way = Breaking(south.outbox, 300)
    with pytest.raises(TransportError):
        ask(north, way)
    north.close()
    north = Mailbox(sites["north"])

    ask(north, way)

    north.close()
    assert way.moved == 700


def test_a_newer_offer_ends_the_old_download(north, south):
    """Of a peer at most one payload is unfinished."""
    offer(south)
    with pytest.raises(TransportError):
        ask(north, Breaking(south.outbox, 300))
    offer(south, b"another" * 100)
    with pytest.raises(TransportError):
        ask(north, Breaking(south.outbox, 200))

    assert [path.stat().st_size for path in begun(north)] == [200]


@pytest.mark.parametrize("rest", [b"x" * 300, b"x" * 700, b"x" * 900])
def test_a_damaged_beginning_costs_one_more_download(north, south, rest):
    """A power cut on our side is not the peer's fault."""
    offer(south)
    with pytest.raises(TransportError):
        ask(north, Breaking(south.outbox, 300))
    begun(north)[0].write_bytes(rest)

    assert ask(north, FolderTransport(south.outbox)).payload.read_bytes() == b"weights" * 100


def test_a_wrong_payload_is_refused_however_it_came(north, south):
    """Continued, then whole: it does not fit its hash, so it goes to quarantine."""
    manifest = offer(south)
    with pytest.raises(TransportError):
        ask(north, Breaking(south.outbox, 300))
    (south.outbox / manifest.payload).write_bytes(b"weighty" * 100)

    with pytest.raises(RejectedError) as caught:
        ask(north, FolderTransport(south.outbox))

    assert caught.value.rule == "sha256"
    assert begun(north) == []


def test_an_old_offer_is_used_and_called_stale(north, south):
    """By name, in days; seven are the default."""
    manifest = offer(south)
    created = write_time(datetime.now(UTC) - timedelta(days=8))
    republish(south, replace(manifest, created=created))

    delivery = collect(north, south)
    north.accept(delivery)

    assert delivery.remark == "stale: the newest offer of peer 'south' is 8 days old, expected less than 7"
    line = json.loads(north.ledger.path.read_text().splitlines()[-1])
    assert (line["verdict"], line["message"]) == ("accepted", delivery.remark)


def test_a_peer_that_shows_no_news_for_long_is_called_stale(north, south):
    """Whether it is silent or its relay frozen; before that it is just not further."""
    manifest = offer(south)
    for days, found in ((6, "expected an offer after 1, found none"), (9, "stale: the newest offer of peer")):
        (south.site.folder.parent / "north" / "state" / "peer-south.json").unlink(missing_ok=True)
        created = write_time(datetime.now(UTC) - timedelta(days=days))
        republish(south, replace(manifest, created=created))
        north.accept(collect(north, south))

        with pytest.raises(NotFoundError) as caught:
            collect(north, south)

        assert found in str(caught.value)


def test_a_clock_an_hour_off_changes_nothing(north, south):
    """In either direction: neither stale nor expired."""
    for hours in (-1, 1):
        manifest = offer(south)
        moment = datetime.now(UTC) + timedelta(hours=hours)
        created, expires = write_time(moment), write_time(moment + timedelta(days=30))
        republish(south, replace(manifest, created=created, expires=expires))

        delivery = collect(north, south)

        assert delivery.remark == ""
        north.accept(delivery)


def test_other_content_under_a_judged_sequence_is_refused(north, south):
    """A peer restored from a backup, or somebody with its key: two offers 1 cannot both be right."""
    manifest = offer(south)
    north.accept(collect(north, south))
    with pytest.raises(NotFoundError):
        collect(north, south)
    republish(south, replace(manifest, epoch=51))

    with pytest.raises(RejectedError) as caught:
        collect(north, south)

    assert caught.value.rule == "sequence"
    assert "with other content than before" in str(caught.value)


def test_what_was_judged_is_remembered_with_its_digest(north, south):
    """Accepted and refused alike; the older of two judged late does not replace the newer."""
    offer(south)
    first = collect(north, south)
    manifest = offer(south)
    second = collect(north, south)
    north.refuse(second, RejectedError("norm", "too large"))
    north.accept(first)

    with pytest.raises(NotFoundError):
        collect(north, south)
    state = json.loads((north.state / "peer-south.json").read_text())
    assert (state["accepted"], state["refused"], state["created"]) == (1, 2, manifest.created)


@pytest.fixture
def encrypting(mailboxes):
    """South, with one line more in its site.toml."""
    mailboxes["south"].close()
    path = mailboxes["south"].site.path
    path.write_text(path.read_text() + "encrypt = true\n")
    mailbox = Mailbox(load_site(path))
    yield mailbox
    mailbox.close()


def test_an_encrypted_offer_arrives_as_plain_weights(north, encrypting):
    """The outbox holds nothing readable, the inbox nothing encrypted."""
    south = encrypting

    manifest = offer(south)

    assert (manifest.encryption, manifest.weights_bytes) == ("age", 700)
    stored = (south.outbox / manifest.payload).read_bytes()
    assert stored.startswith(b"age-encryption.org/v1\n")
    assert b"weightsweights" not in stored
    assert len(stored) == manifest.payload_bytes
    assert manifest.payload.endswith(".safetensors.age")
    delivery = collect(north, south)
    assert delivery.payload.read_bytes() == b"weights" * 100
    assert sorted(path.name for path in delivery.payload.parent.iterdir()) == [
        "delivery.json",
        "manifest.json",
        "manifest.json.sig",
        "weights.safetensors",
    ]


def test_an_encrypted_offer_of_another_size_is_refused(north, encrypting):
    """The sender states 700 bytes and encrypts 693."""
    manifest = offer(encrypting, b"weights" * 99)
    republish(encrypting, replace(manifest, weights_bytes=700))

    with pytest.raises(RejectedError) as caught:
        collect(north, encrypting)

    assert caught.value.rule == "encryption"


@pytest.mark.parametrize("content", ['{"accepted": "x"}', '{"accepted": 1, "refused": "2"}'])
def test_a_damaged_memory_is_an_error_with_a_hint(north, south, content):
    """Not a crash, and not an empty memory."""
    offer(south)
    (north.state / "peer-south.json").write_text(content)

    with pytest.raises(ConfigError, match="is damaged"):
        collect(north, south)
