"""A site's card: survives mail, and says what is wrong with it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import peer_sync
from peer_sync import identity
from peer_sync.card import BEGIN, END, MAX_CARD_BYTES, read_card, read_card_file, write_card
from peer_sync.errors import ConfigError
from peer_sync.federation import Member
from peer_sync.identity import FileKey, generate_key, load_site_key

ECDSA = (
    "ecdsa-sha2-nistp256 "
    + "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA"
    + "0123456789" * 8
    + "w="
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The keys of north and of a stranger, and north's host key's public line."""
    folder = tmp_path_factory.mktemp("keys")
    host = generate_key(folder / "host")
    lines = {name: generate_key(folder / name) for name in ("north", "stranger")}
    return {name: load_site_key(folder / name, line) for name, line in lines.items()}, host


@pytest.fixture(scope="module")
def member(keys) -> Member:
    """North, with everything that a card can say."""
    return Member(
        name="north",
        public_key=keys[0]["north"].line,
        address="sftp://gml.north.example:2222",
        host_key=keys[1],
        labelled=("Brainstem", "Parotid, left", "Glandula submandibularis ü"),
        contact="Radiotherapy physics, physics@north.example, telephone +49 30 123456 (mornings only)",
    )


@pytest.fixture(scope="module")
def card(keys, member) -> str:
    return write_card(member, keys[0]["north"])


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_card(text)
    assert caught.value.hint
    return caught.value


def test_a_card_is_read_as_it_was_written(card, member):
    """Every field, umlauts and commas in class names included."""
    assert read_card(card) == member


def test_a_bare_card_is_as_good(keys, member):
    """A shared folder needs no host key; every class contoured; nobody named."""
    bare = Member("north", member.public_key, "folder:/mnt/shared/north/outbox")

    assert read_card(write_card(bare, keys[0]["north"])) == bare


def test_a_site_that_contours_nothing_is_not_one_that_contours_everything(keys, member):
    """An empty list is a statement."""
    nothing = replace(member, labelled=())

    assert read_card(write_card(nothing, keys[0]["north"])) == nothing


def test_the_host_key_of_an_sshd_may_be_of_another_type(keys, member):
    """Not every server has an ed25519 host key."""
    other = replace(member, host_key=ECDSA)

    assert read_card(write_card(other, keys[0]["north"])) == other


def test_lines_are_short_enough_for_mail_programs(card):
    """They wrap at 72 characters or more."""
    assert max(map(len, card.splitlines())) <= 70


MAILED = {
    "quoted": lambda card: textwrap.indent(card, "> "),
    "quoted twice": lambda card: textwrap.indent(card, ">> > "),
    "CRLF": lambda card: card.replace("\n", "\r\n"),
    "text around": lambda card: f"Dear all,\n\nhere is our card:\n{card}\n-- \nPhysics\nname: nobody\n",
    "indented": lambda card: textwrap.indent(card, "\t  "),
    "empty lines between": lambda card: card.replace("\n", "\n\n"),
    "no-break spaces": lambda card: card.replace(" ", "\xa0"),
    "dashes made long": lambda card: card.replace("-----", "\u2014\u2014-"),
    "unindented": lambda card: card.replace("\n  ", "\n"),
    "wrapped at 40": lambda card: "\n".join(
        part for line in card.splitlines() for part in textwrap.wrap(line, 40, break_on_hyphens=False)
    ),
    "wrapped within keys": lambda card: re.sub(r"(AAAA[\w+/=]{10})", "\\1\n", card),
}


@pytest.mark.parametrize("way", MAILED)
def test_a_card_survives_mail(card, member, way):
    """Quoting, line ends, wrapping and greetings change nothing."""
    assert read_card(MAILED[way](card)) == member


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("name", "name: north", "name: nroth"),
        ("address", "north.example:2222", "north.example:2223"),
        (
            "public_key",
            "public_key: ssh-ed25519\n  AAAAC3NzaC1lZDI1NTE5AAAAI",
            "public_key: ssh-ed25519\n  AAAAC3NzaC1lZDI1NTE5AAAAJ",
        ),
        ("host_key", "host_key: ssh-ed25519", "host_key: ssh-rsa"),
        ("labelled", "Brainstem", "Brain stem"),
        ("contact", "mornings", "evenings"),
    ],
)
def test_a_typo_is_told_with_its_field(card, field, old, new):
    """One letter that somebody changed: the sentence says where it is."""
    assert old in card

    error = refusal(card.replace(old, new))

    assert f"was changed after it was signed: {field} is now" in str(error)


def test_a_field_that_was_lost_is_told(card):
    """A line that was not copied."""
    without = re.sub(r"contact:.*?(?=check:)", "", card, flags=re.DOTALL)

    assert "contact is now 'missing'" in str(refusal(without))


def test_a_swapped_key_is_told_with_both_fingerprints(keys, card, member):
    """Somebody who replaces the key and its digits cannot sign for it."""
    own, stranger = keys[0]["north"], keys[0]["stranger"]
    forged = write_card(replace(member, public_key=stranger.line), stranger)
    signature = card.partition("signature:")[2]

    error = refusal(forged.partition("signature:")[0] + "signature:" + signature)

    assert "the card of site 'north' is not signed by its own key" in str(error)
    assert identity.fingerprint(own.line) in str(error) and identity.fingerprint(stranger.line) in str(error)
    assert "by telephone" in error.hint


def test_a_card_is_signed_by_the_key_it_names(keys, member):
    """A site cannot write a card for another key."""
    with pytest.raises(ConfigError, match="not signed by its own key"):
        write_card(member, keys[0]["stranger"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "found of these lines: none"),
        ("{card}{card}", "BEGIN, END, BEGIN, END"),
        (BEGIN, "found of these lines: BEGIN"),
        (f"{END}\n{BEGIN}", "END, BEGIN"),
        (f"{BEGIN}\n{END}", "lacks the field name"),
        (f"{BEGIN}\nhello\nname: north\n{END}", "begins with 'hello'"),
        (f"{BEGIN}\nname: north\nname: south\n{END}", "the field name twice"),
    ],
)
def test_what_is_not_one_whole_card_is_refused(card, text, found):
    """Half a block, two of them, none."""
    assert found in str(refusal(text.replace("{card}", card)))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"name": "North!"}, "characters that are not allowed"),
        ({"address": "ftp://north.example"}, "expected sftp://"),
        ({"host_key": ""}, "host_key is ''"),
        ({"contact": "\x1b[2J"}, "printable"),
        ({"contact": "a" * 201}, "at most 200"),
        ({"labelled": ("a", "a")}, "list of different names"),
        ({"contact": "two  spaces"}, "single spaces"),
    ],
)
def test_a_card_that_others_would_refuse_is_not_written(keys, member, changes, found):
    """The site learns it at home, and the same rules hold for what comes from others."""
    with pytest.raises(ConfigError) as caught:
        write_card(replace(member, **changes), keys[0]["north"])

    assert found in f"{caught.value} {caught.value.hint}"


@given(position=st.integers(min_value=0), letter=st.characters(codec="ascii"))
def test_no_changed_letter_makes_another_site(card, member, position, letter):
    """Refused, or a change of spaces that means nothing."""
    position %= len(card)
    try:
        found = read_card(card[:position] + letter + card[position + 1 :])
    except ConfigError:
        return
    assert found == member


@given(st.text(max_size=200))
def test_any_text_is_a_refusal_not_a_crash(text):
    """What strangers mail never raises anything else."""
    refusal(
        f"{BEGIN}\nname: north\npublic_key: {text}\naddress: {text}\nlabelled: {text}\ncheck: {text}\n"
        f"signature: {text}\n{END}"
    )


def test_a_file_is_read_no_further_than_a_card_may_be_long(tmp_path, card, member):
    """And its name stands in the error."""
    path = tmp_path / "north.card"
    path.write_text(card)
    assert read_card_file(path) == member

    path.write_bytes(card.encode() + b" " * MAX_CARD_BYTES)
    with pytest.raises(ConfigError, match=r"north\.card has more than"):
        read_card_file(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_card_file(tmp_path / "south.card")
    path.write_text("nothing")
    with pytest.raises(ConfigError, match=r"north\.card: expected one card"):
        read_card_file(path)


def test_the_card_of_the_specification_is_written_and_read_as_it_stands_there(tmp_path):
    """By the key of the test vectors, to the letter."""
    text = (Path(peer_sync.__file__).parent / "PROTOCOL.md").read_text()
    stated = text[text.index(BEGIN) : text.index(END)] + f"{END}\n"
    key = FileKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))

    member = read_card(text)

    assert (member.public_key, member.labelled) == (key.line, ("Brainstem", "Parotid, left"))
    assert write_card(member, key) == stated
