"""The manifest's one spelling."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from courier_kit import FACTS, PLANS, SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from peer_sync.errors import RejectedError
from peer_sync.manifest import PROTOCOL, Manifest, parse
from peer_sync.names import newest_whole, payload_name, sequence_of

GOOD = Manifest(
    protocol=PROTOCOL,
    federation="c" * 64,
    federation_version=3,
    site="south",
    sequence=7,
    created="2026-11-21T10:00:00Z",
    expires="2026-12-21T10:00:00Z",
    round=1,
    epoch=50,
    plans_digest=PLANS,
    schema_digest=SCHEMA,
    labelled=("brainstem", "parotid"),
    cases=12,
    dice={"brainstem": 0.81, "parotid": 0.7},
    payload=payload_name(7, "d" * 64),
    payload_bytes=700,
    dtype="float16",
    encryption="none",
    weights_bytes=700,
    sha256="d" * 64,
    recipients=("north",),
)


def spelled(**changes: object) -> bytes:
    content = {**json.loads(GOOD.to_bytes()), **changes}
    kept = {key: value for key, value in content.items() if value is not ...}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def rule_of(data: bytes) -> str:
    with pytest.raises(RejectedError) as caught:
        parse(data)
    return caught.value.rule


def test_a_manifest_survives_its_own_spelling():
    """Written and read it is the same, None included."""
    bare = replace(GOOD, cases=None, dice=None)

    assert parse(GOOD.to_bytes()) == GOOD
    assert parse(bare.to_bytes()) == bare


def test_the_trainers_facts_come_out_as_they_went_in():
    """What the sender's trainer stated is what the receiver's trainer reads."""
    assert GOOD.facts == FACTS


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "../north"},
        {"site": "North"},
        {"federation_version": 0},
        {"federation_version": "3"},
        {"federation_version": ...},
        {"sequence": 0},
        {"sequence": "7"},
        {"sequence": True},
        {"sequence": 10**10},
        {"round": -1},
        {"epoch": 1.5},
        {"created": "yesterday"},
        {"expires": "2026-12-21T10:00:00+00:00"},
        {"plans_digest": "A" * 64},
        {"labelled": "brainstem"},
        {"labelled": ["a", "a"]},
        {"labelled": ["a\n"]},
        {"labelled": [["a"]]},
        {"labelled": [f"c{number}" for number in range(2000)]},
        {"cases": -3},
        {"dice": {"brainstem": 1.2}},
        {"dice": {"brainstem": 1}},
        {"dice": {"brainstem": float("nan")}},
        {"payload": "../../etc/passwd"},
        {"payload": payload_name(8, "d" * 64)},
        {"payload_bytes": 0},
        {"dtype": "int4"},
        {"sha256": "d" * 63},
        {"recipients": ["north", "north"]},
        {"recipients": None},
        {"extra": 1},
        {"cases": ...},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(changes):
    """Type, range and spelling of every field count; so do missing and extra fields."""
    assert rule_of(spelled(**changes)) == "manifest"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}garbage",
        b"[" * 60_000,
        b'{"protocol":' + b"9" * 60_000 + b"}",
        GOOD.to_bytes()[:-1],
        GOOD.to_bytes() + b"\n",
        GOOD.to_bytes().replace(b",", b", ", 1),
        GOOD.to_bytes()
        .replace(b'{"bytes', b'{"site":"south","bytes')
        .replace(b'{"cases', b'{"cases":12,"cases'),
    ],
)
def test_garbage_is_refused(data):
    """Only one spelling of a manifest counts."""
    assert rule_of(data) in ("manifest", "protocol")


def test_another_version_is_its_own_rule():
    """Then one of the two sites has to be updated."""
    assert rule_of(spelled(protocol="nnunet-gml/2")) == "protocol"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_refusal_not_a_crash(data):
    """A stranger's bytes never raise anything else."""
    rule_of(data)


@given(position=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_changed_byte_gives_another_manifest_or_none(position, byte):
    """No two spellings mean the same, so the signature covers the meaning."""
    data = bytearray(GOOD.to_bytes())
    data[position % len(data)] = byte
    if bytes(data) == GOOD.to_bytes():
        return

    with suppress(RejectedError):
        assert parse(bytes(data)) != GOOD


@pytest.mark.parametrize(
    "name", ["../0000000001.json", "1.json", "0000000001.json\n", "0000000001.txt", ".part-1"]
)
def test_other_names_have_no_sequence(name):
    """What is not ours is not looked at."""
    assert sequence_of(name) == 0


def test_the_newest_whole_offer_has_all_three_files():
    """8 lacks its manifest, 9 its weights: 7 it is."""
    files = [
        *("0000000007.json", "0000000007.json.sig", payload_name(7, "a" * 64)),
        *("0000000008.json.sig", payload_name(8, "a" * 64)),
        *("0000000009.json", "0000000009.json.sig"),
        *("../0000000010.json", ".part-0000000011.json"),
    ]

    assert newest_whole(files) == 7
    assert newest_whole([]) == 0


def test_a_refusal_quotes_little_of_a_stranger():
    """Sixty thousand letters in the payload's name are not sixty thousand in our log."""
    with pytest.raises(RejectedError) as caught:
        parse(spelled(payload="\x1b[2J" + "A" * 60_000))

    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
