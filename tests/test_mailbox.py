"""Offers, collecting, every refusal, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from courier_kit import FACTS, PLANS, SCHEMA, SIZES, build_sites, collect, offer, republish, write_payload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peer_sync
from peer_sync import collecting, names, outbox
from peer_sync.errors import ConfigError, NotFoundError, RejectedError, TransportError
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import parse, write_time
from peer_sync.names import manifest_name, signature_name
from peer_sync.quarantine import KEPT_REFUSALS
from peer_sync.site import load_site
from peer_sync.transport.folder import FolderTransport

CONTENT = b"weights" * 100


def refused(north: Mailbox, south: Mailbox) -> RejectedError:
    """Collect, and be refused."""
    with pytest.raises(RejectedError) as caught:
        collect(north, south)
    return caught.value


def ledger(mailbox: Mailbox) -> list[dict]:
    return [json.loads(line) for line in mailbox.ledger.path.read_text().splitlines()]


def quarantined(mailbox: Mailbox) -> list[Path]:
    home = mailbox.site.folder / "quarantine" / "south"
    return sorted(home.iterdir()) if home.exists() else []


def test_an_offer_arrives_as_it_was_made(north, south):
    """Weights and facts are the same on the other side."""
    made = offer(south)

    delivery = collect(north, south, round=4)

    assert delivery.payload.read_bytes() == CONTENT
    assert (delivery.peer, delivery.round, delivery.manifest) == ("south", 4, made)
    assert delivery.manifest.facts == FACTS


def test_the_payload_is_moved_not_copied(south):
    """The trainer's file is gone, the outbox has three files of mode read-by-us."""
    path = write_payload(south.site.folder)

    made = south.offer(path, FACTS)

    assert not path.exists()
    assert sorted(file.name for file in south.outbox.iterdir()) == sorted(
        [made.payload, manifest_name(1), signature_name(1)]
    )


def test_the_manifest_is_renamed_last(monkeypatch, south):
    """Weights, signature, manifest: the manifest is the commit."""
    order, replace_file = [], Path.replace

    def noted(self: Path, target: Path) -> Path:
        order.append(Path(target).name)
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    made = offer(south)

    assert [name for name in order if name.startswith("0")] == [
        made.payload,
        signature_name(1),
        manifest_name(1),
    ]
    assert order.index("sequence.json") < order.index(made.payload)


def test_the_last_three_offers_are_kept(south):
    """By number, never by time."""
    for _ in range(5):
        offer(south)

    assert sorted(path.name for path in south.outbox.glob("*.json")) == [manifest_name(n) for n in (3, 4, 5)]
    assert len(list(south.outbox.iterdir())) == 9


def test_the_sequence_goes_on_after_a_restart(south):
    """A number is never used twice."""
    offer(south)
    south.close()

    again = Mailbox(south.site)

    assert offer(again).sequence == 2
    again.close()


def test_the_sequence_starts_above_the_outbox(south):
    """A lost state folder does not bring old numbers back."""
    offer(south)
    offer(south)
    (south.state / "sequence.json").unlink()

    assert offer(south).sequence == 3


def test_withheld_facts_stay_here(tmp_path, sites):
    """share_cases and share_dice are this hospital's decision."""
    path = tmp_path / "south.toml"
    path.write_text(path.read_text() + "share_cases = false\nshare_dice = false\n")
    south = Mailbox(load_site(path))

    made = offer(south)

    assert (made.cases, made.dice) == (None, None)
    south.close()


def test_nothing_of_this_machine_is_in_an_offer(south):
    """No path and no host name leave the site."""
    made = offer(south).to_bytes()

    assert str(south.site.folder).encode() not in made
    assert os.uname().nodename.encode() not in made


def test_weights_over_the_limit_are_not_offered(tmp_path, sites):
    """The sender hears it, not every receiver."""
    text = (tmp_path / "federation.toml").read_text()
    (tmp_path / "federation.toml").write_text("max_payload_bytes = 699\n" + text)
    south = Mailbox(load_site(tmp_path / "south.toml"))

    with pytest.raises(ConfigError, match="have 700 bytes, expected 1 to 699"):
        offer(south)
    south.close()


def test_a_score_that_is_no_number_stays_here(south):
    """A class without a validation case has no Dice; the others are stated."""
    made = offer(south, dice={"brainstem": float("nan"), "parotid": 0.123456})

    assert made.dice == {"parotid": 0.1235}


def test_a_fact_that_peers_would_refuse_is_not_offered(south):
    """The sender hears it, and the outbox stays as it was."""
    with pytest.raises(ConfigError, match="no peer would take our offer"):
        offer(south, dtype="int3")
    assert list(south.outbox.iterdir()) == []


def test_an_empty_outbox_has_nothing(north, south):
    """Not yet is no refusal."""
    with pytest.raises(NotFoundError, match="peer 'south', round 1, rule nothing new"):
        collect(north, south)
    assert quarantined(north) == []


def test_an_accepted_offer_is_nothing_new(north, south):
    """The same sequence again is no refusal, and the next one is taken."""
    offer(south)
    north.accept(collect(north, south))

    with pytest.raises(NotFoundError, match="after 1"):
        collect(north, south)
    offer(south)
    assert collect(north, south).manifest.sequence == 2
    assert quarantined(north) == []


def test_an_offer_nobody_judged_comes_again(north, south):
    """A training that died between collecting and judging loses nothing."""
    offer(south)
    collect(north, south)

    assert collect(north, south).manifest.sequence == 1


def test_what_the_trainer_refused_does_not_come_again(north, south):
    """It is in quarantine with the trainer's rule, and so it is after a restart."""
    offer(south)
    delivery = collect(north, south)

    north.refuse(delivery, RejectedError("finite", "expected finite weights, found NaN"))

    with pytest.raises(NotFoundError):
        collect(north, south)
    (place,) = quarantined(north)
    assert json.loads((place / "reason.json").read_text())["rule"] == "finite"
    assert (place / "weights.safetensors").read_bytes() == CONTENT
    assert not delivery.payload.exists()


CHANGES = {
    "plans": lambda made: replace(made, plans_digest="e" * 64),
    "schema": lambda made: replace(made, schema_digest="e" * 64),
    "federation": lambda made: replace(made, federation="e" * 64),
    "site": lambda made: replace(made, site="east"),
    "recipients": lambda made: replace(made, recipients=("east",)),
    "expired": lambda made: replace(made, expires="2026-01-01T00:00:00Z"),
    "protocol": lambda made: replace(made, protocol="nnunet-gml/2"),
    "size": lambda made: replace(made, payload_bytes=3_000_000_000),
}


@pytest.mark.parametrize("rule", CHANGES)
def test_a_well_signed_manifest_can_still_break_a_rule(north, south, rule):
    """The peer's own key does not help: the rule is named, with expected and found."""
    made = offer(south)
    republish(south, CHANGES[rule](made))

    error = refused(north, south)

    assert error.rule == rule
    assert str(error).startswith(f"peer 'south', round 1, rule {rule}: ")
    assert "expected" in str(error)
    assert "found" in str(error)


def test_a_refusal_is_kept_with_its_reason(north, south):
    """Quarantine has what was fetched and why; the ledger has a line."""
    republish(south, replace(offer(south), plans_digest="e" * 64))

    error = refused(north, south)

    (place,) = quarantined(north)
    reason = json.loads((place / "reason.json").read_text())
    assert (reason["peer"], reason["round"], reason["rule"], reason["message"]) == (
        "south",
        1,
        "plans",
        str(error),
    )
    assert parse((place / "manifest.json").read_bytes()).plans_digest == "e" * 64
    (line,) = ledger(north)
    assert (line["event"], line["verdict"], line["rule"], line["sequence"]) == (
        "collect",
        "refused",
        "plans",
        1,
    )


def test_the_wrong_signer_is_refused(north, south):
    """North's own good key does not sign for south."""
    made = offer(south)
    republish(south, made, signer=north.site.private_key)

    assert refused(north, south).rule == "signature"


def test_an_offer_of_another_site_is_refused(tmp_path):
    """East's good offer in south's outbox is not south's."""
    boxes = {name: Mailbox(site) for name, site in build_sites(tmp_path, ("north", "south", "east")).items()}
    offer(boxes["east"])
    for path in boxes["east"].outbox.iterdir():
        path.rename(boxes["south"].outbox / path.name)

    assert refused(boxes["north"], boxes["south"]).rule == "signature"
    for box in boxes.values():
        box.close()


def test_a_truncated_file_is_refused(north, south):
    """Fewer bytes than the manifest states."""
    made = offer(south)
    (south.outbox / made.payload).write_bytes(CONTENT[:-1])

    error = refused(north, south)

    assert error.rule == "size"
    assert "expected 700 bytes, found 699" in str(error)


def test_a_file_with_more_bytes_is_refused(north, south):
    """And no more than one byte over is read."""
    made = offer(south)
    (south.outbox / made.payload).write_bytes(CONTENT * 1000)

    assert refused(north, south).rule == "size"
    assert ledger(north)[-1]["bytes"] < 10_000


@pytest.mark.parametrize(("name", "limit"), [(manifest_name(1), 64 * 1024), (signature_name(1), 4 * 1024)])
def test_a_large_manifest_or_signature_is_refused(north, south, name, limit):
    """The limit is stated, and holds before reading."""
    offer(south)
    (south.outbox / name).write_bytes(b" " * 10_000_000)

    error = refused(north, south)

    assert error.rule == "size"
    assert f"expected at most {limit} bytes" in str(error)


@pytest.mark.parametrize("garbage", [b"", b"\x80\x05pickle", b"{", b"null\n", b"[" * 50_000])
def test_a_garbage_manifest_is_refused(north, south, garbage):
    """Whatever it is, it is not JSON of ours."""
    offer(south)
    (south.outbox / manifest_name(1)).write_bytes(garbage)

    assert refused(north, south).rule == "manifest"


def test_an_old_offer_put_back_is_refused(north, south):
    """Rollback: the newest that is shown is older than the one accepted."""
    offer(south)
    old = {path: path.read_bytes() for path in south.outbox.iterdir()}
    offer(south)
    north.accept(collect(north, south))
    for path in south.outbox.iterdir():
        path.unlink()
    for path, content in old.items():
        path.write_bytes(content)

    error = refused(north, south)

    assert error.rule == "sequence"
    assert "expected more than 1, found 1" not in str(error)
    assert "expected more than 2, found 1" in str(error)


def test_an_old_manifest_under_a_new_name_is_refused(north, south):
    """Replay: the number inside counts."""
    made = offer(south)
    north.accept(collect(north, south))
    republish(south, made, sequence=9)
    (south.outbox / made.payload.replace("0000000001", "0000000009")).write_bytes(CONTENT)

    error = refused(north, south)

    assert error.rule == "sequence"
    assert "expected 9 as the file is called, found 1" in str(error)


def test_a_jump_ahead_is_refused(north, south):
    """A stolen key cannot use up all numbers in one offer."""
    offer(south)
    north.accept(collect(north, south))
    (south.state / "sequence.json").write_text('{"sequence": 2000000}')
    offer(south)

    assert refused(north, south).rule == "sequence"


def test_what_was_accepted_is_remembered_after_a_restart(north, south):
    """On disk, before anything else happens."""
    offer(south)
    north.accept(collect(north, south))
    north.close()

    again = Mailbox(north.site)

    with pytest.raises(NotFoundError):
        collect(again, south)
    again.close()


def test_a_damaged_memory_is_not_taken_for_an_empty_one(north, south):
    """That would let old offers in."""
    offer(south)
    (north.state / "peer-south.json").write_text("{")

    with pytest.raises(ConfigError, match="is damaged"):
        collect(north, south)


def test_expiry_counts_from_the_offer(tmp_path, sites):
    """offer_days = 1: about a day ahead, in UTC."""
    path = tmp_path / "south.toml"
    path.write_text(path.read_text() + "offer_days = 1\n")
    south = Mailbox(load_site(path))

    made = offer(south)

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert abs(made.expires_at - tomorrow) < timedelta(minutes=1)
    assert made.created <= write_time(datetime.now(UTC))
    south.close()


def test_a_full_disk_is_told_before_the_download(monkeypatch, north, south):
    """Room is checked for the size the manifest states; it is no refusal."""
    offer(south)
    monkeypatch.setattr(collecting, "SPARE_BYTES", 1 << 60)

    with pytest.raises(TransportError, match="free bytes"):
        collect(north, south)
    assert quarantined(north) == []
    assert list(north.inbox.iterdir()) == []


def test_a_site_does_not_collect_from_itself(north):
    """Nor from a stranger."""
    with pytest.raises(ConfigError, match="itself"):
        collect(north, north)
    with pytest.raises(ConfigError, match="no site is called"):
        north.collect("../east", FolderTransport(north.outbox), PLANS, SCHEMA, SIZES, 1)


def test_quarantine_is_bounded(north, south):
    """The oldest go first."""
    for _ in range(KEPT_REFUSALS + 3):
        offer(south)
        (south.outbox / manifest_name(south._outbox._next_sequence() - 1)).write_bytes(b"{")
        refused(north, south)

    assert [path.name[:6] for path in quarantined(north)] == [f"{number:06d}" for number in range(4, 12)]


def test_the_inbox_is_bounded(north, south):
    """Two deliveries of a peer stay, the newest among them."""
    for _ in range(4):
        offer(south)
        delivery = collect(north, south)

    assert len(list((north.inbox / "south").iterdir())) == 2
    assert delivery.payload.exists()


def test_a_killed_run_leaves_nothing_half(south):
    """Parts and offers without a manifest are gone at the next start; the whole offer stays."""
    offer(south)
    (south.outbox / ".part-0011").write_bytes(b"half")
    (south.outbox / signature_name(2)).write_bytes(b"half")
    (south.inbox / ".part-0022").mkdir()
    (south.inbox / ".part-0022" / "manifest.json").write_bytes(b"half")
    south.close()

    again = Mailbox(south.site)

    assert len(list(south.outbox.iterdir())) == 3
    assert list(south.inbox.iterdir()) == []
    again.close()


def test_one_mailbox_at_a_time(north):
    """Within one process ..."""
    with pytest.raises(ConfigError, match="used by another"):
        Mailbox(north.site)


OPEN = """
import sys
from peer_sync.mailbox import Mailbox
from peer_sync.site import load_site
Mailbox(load_site(sys.argv[1]))
"""


def test_one_process_at_a_time(north):
    """... and between two."""
    environment = {**os.environ, "PYTHONPATH": str(Path(peer_sync.__file__).parent.parent)}

    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(north.site.path)], env=environment, capture_output=True, timeout=100
    )

    assert b"used by another running training" in done.stderr


def test_a_closed_mailbox_can_be_opened_again(north):
    """By anyone."""
    north.close()
    north.close()

    Mailbox(north.site).close()


def test_every_exchange_is_a_line(north, south):
    """Offered here, accepted there; all bytes that crossed are counted."""
    made = offer(south)
    north.accept(collect(north, south, round=3))

    (offered,), (accepted,) = ledger(south), ledger(north)
    crossed = 700 + len(made.to_bytes()) + (south.outbox / signature_name(1)).stat().st_size
    assert (offered["event"], offered["verdict"], offered["bytes"]) == ("offer", "offered", crossed)
    assert (accepted["event"], accepted["verdict"], accepted["bytes"]) == ("collect", "accepted", crossed)
    assert (accepted["peer"], accepted["round"], accepted["sequence"], accepted["retries"]) == (
        "south",
        3,
        1,
        0,
    )
    assert datetime.fromisoformat(accepted["time"]).tzinfo is not None


def test_an_unknown_fact_is_a_bug(north):
    """The ledger has fixed columns."""
    with pytest.raises(TypeError, match="colour"):
        north.ledger.write(colour="red")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"weights_bytes": 699}, "expected 700 bytes of float16, found 699"),
        ({"payload_bytes": 699}, "expected 700 to 700 bytes, found 699"),
        ({"payload_bytes": 1_900_000_000}, "expected 700 to 700 bytes, found 1900000000"),
        ({"payload_bytes": 1_900_000_000, "encryption": "age"}, "expected 700 to 5820 bytes"),
        ({"dtype": "float32"}, "expected 1400 bytes of float32, found 700"),
    ],
)
def test_another_size_than_our_networks_is_refused_before_the_download(north, south, change, found):
    """Well signed and within the federation's maximum; nothing of the weights is fetched."""
    changed = replace(offer(south), **change)
    name = names.payload_name(changed.sequence, changed.sha256, changed.encryption)
    (south.outbox / name).touch()
    republish(south, replace(changed, payload=name))

    error = refused(north, south)

    assert error.rule == "size"
    assert found in str(error)
    assert [path.name for path in quarantined(north)[0].glob("weights*")] == []


BREAKS = {
    "sequence": (outbox, "write_state"),
    "hash": (outbox, "sha256_of"),
    "key": (outbox.identity, "load_private_key"),
    "signature": (outbox, "write_durably"),
}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ConfigError("bad key"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("place", BREAKS)
def test_an_offer_that_fails_leaves_nothing(monkeypatch, south, place, error):
    """Wherever and however: not a byte more in the outbox, and the next offer works."""
    offer(south)

    def broken(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*BREAKS[place], broken)
        with pytest.raises((TransportError, ConfigError, KeyboardInterrupt)):
            offer(south)

    assert len(list(south.outbox.iterdir())) == 3
    offer(south)
    assert len(list(south.outbox.glob("*.json"))) == 2


def test_an_offer_that_fails_at_the_manifest_leaves_nothing(monkeypatch, south):
    """Even when the manifest was there already."""

    def late(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        if path.suffix == ".json":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(outbox, "write_durably", late)

    with pytest.raises(TransportError, match="Input/output error"):
        offer(south)
    assert list(south.outbox.iterdir()) == []


def test_leftovers_do_not_push_whole_offers_out(south):
    """Three whole offers stay; parts of others count for nothing and go."""
    for _ in range(2):
        offer(south)
    for sequence in (3, 4, 5):
        (south.outbox / signature_name(sequence)).write_bytes(b"left")
    (south.outbox / manifest_name(6)).write_bytes(b"left")

    offer(south)

    assert sorted(path.name for path in south.outbox.glob("*.json")) == [manifest_name(n) for n in (1, 2, 7)]
    assert len(list(south.outbox.iterdir())) == 9


def test_an_old_offer_that_cannot_be_removed_stops_nothing(monkeypatch, south):
    """The new one is out, and said to be out."""

    def broken(path: Path) -> None:
        raise OSError(13, "Permission denied")

    for _ in range(3):
        offer(south)
    monkeypatch.setattr(outbox, "remove", broken)

    assert offer(south).sequence == 4
    assert ledger(south)[-1]["sequence"] == 4


def test_our_full_disk_is_said_to_be_ours(north, south):
    """Not: the peer did not answer."""
    offer(south)

    class Full(FolderTransport):
        def get(self, name: str, target: Path, max_bytes: int) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(TransportError, match=r"cannot write into .*north: No space left on device"):
        north.collect("south", Full(south.outbox), PLANS, SCHEMA, SIZES, 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["manifest", "signature", "payload"]), position=st.integers(0), bit=st.integers(0, 7)
)
def test_a_flipped_bit_anywhere_is_refused(north, south, kind, position, bit):
    """In each of the three files, at any place."""
    made = offer(south)
    file = {"manifest": manifest_name(made.sequence), "signature": signature_name(made.sequence)}
    path = south.outbox / file.get(kind, made.payload)
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)

    error = refused(north, south)

    assert error.rule in ("manifest", "protocol", "signature", "sha256")
