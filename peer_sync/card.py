"""A site's card: what the others need to know of it, as signed text that survives mail."""

from __future__ import annotations

import base64
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from peer_sync import identity, openssh
from peer_sync.errors import ConfigError, RejectedError, quoted
from peer_sync.federation import MEMBER_KEYS, Member, read_member
from peer_sync.identity import SiteKey
from peer_sync.manifest import PROTOCOL, canonical
from peer_sync.tables import Table

MAX_CARD_BYTES = 64 * 1024
BEGIN, END = "-----BEGIN NNUNET-GML CARD-----", "-----END NNUNET-GML CARD-----"
WIDTH = 70
KEYS = ("public_key", "host_key", "signature")
NEEDED = ("name", "public_key", "address", "check", "signature")
FIELD = re.compile(rf"({'|'.join(MEMBER_KEYS)}|check|signature):(.*)")
MARK = re.compile(r"\W*(BEGIN|END)\s+NNUNET-GML\s+CARD\W*")
QUOTING = re.compile(r"^[>|\s]+")
COPY_AGAIN = "ask the site for its card again, and copy the whole block from BEGIN to END"


def write_card(member: Member, key: SiteKey) -> str:
    """The card of a site, in lines that mail programs leave alone.

    Args:
        member: the site as all others shall see it.
        key: its own key, which signs.

    Raises:
        ConfigError: others would not take this card; the message says why.
        TransportError: ssh-agent did not sign.
    """
    texts = _texts(member)
    armored = identity.sign(key, _signed(texts)).decode()
    fields = {**texts, "check": _checks(texts), "signature": "".join(armored.splitlines()[1:-1])}
    lines = [line for name, text in fields.items() for line in _wrapped(name, text)]
    card = "\n".join([BEGIN, *lines, END, ""])
    if read_card(card) != member:
        raise ConfigError(
            f"the card of site {member.name!r} cannot hold its texts: address, contact or labelled has "
            "spaces at an end or several in a row",
            hint="write single spaces only",
        )
    return card


def read_card(text: str) -> Member:
    """Read the one card in a text, such as a mail, and check it.

    Raises:
        ConfigError: no card, several, one that was changed after it was signed (the message names the
            fields), one with another site's key, or one that states what is not allowed.
    """
    fields = _fields(text)
    name = quoted(fields["name"])
    texts = {key: fields[key] for key in MEMBER_KEYS if key in fields}
    _check_unchanged(name, texts, fields["check"])
    member = read_member(Table(_content(name, texts), f"the card of site {name}"))
    _check_signature(name, member.public_key, texts, fields["signature"])
    return member


def read_card_file(path: Path) -> Member:
    """Read the one card in a file. Raises `ConfigError` as `read_card`, and if the file cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CARD_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check path and rights") from error
    if len(data) > MAX_CARD_BYTES:
        raise ConfigError(
            f"{path} has more than {MAX_CARD_BYTES} bytes, expected a card of about 1000",
            hint="save the block from BEGIN to END in a file of its own",
        )
    try:
        return read_card(data.decode("utf-8", errors="replace"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error


def _texts(member: Member) -> dict[str, str]:
    """The fields of a card as texts, in order; those that say nothing are left out."""
    labelled = "" if member.labelled is None else json.dumps(member.labelled)
    values = {key: labelled if key == "labelled" else str(getattr(member, key)) for key in MEMBER_KEYS}
    return {key: " ".join(value.split()) for key, value in values.items() if value}


def _content(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The same as a [[sites]] table has it."""
    if "labelled" not in texts:
        return dict(texts)
    try:
        return {**texts, "labelled": json.loads(texts["labelled"])}
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"the card of site {name}: labelled is {quoted(texts['labelled'])}, expected a list of names",
            hint=COPY_AGAIN,
        ) from error


def _signed(texts: Mapping[str, str]) -> bytes:
    return canonical({"protocol": PROTOCOL, "card": dict(texts)})


def _checks(texts: Mapping[str, str]) -> str:
    """A few digits for each field: they tell which one was changed. The signature is what counts."""
    return " ".join(f"{key}={sha256(text.encode()).hexdigest()[:8]}" for key, text in texts.items())


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name}: {text}",
        WIDTH,
        subsequent_indent="  ",
        break_long_words=name in KEYS,
        break_on_hyphens=False,
    )


def _lines(text: str) -> Iterator[str]:
    """The lines of the one card between its marks, without a mail program's quoting."""
    lines = [QUOTING.sub("", line).strip() for line in text.splitlines()]
    marks = [(number, match[1]) for number, line in enumerate(lines) if (match := MARK.fullmatch(line))]
    if [word for _, word in marks] != ["BEGIN", "END"]:
        found = ", ".join(word for _, word in marks[:8]) or "none"
        raise ConfigError(
            f"expected one card, between the lines {BEGIN} and {END}, found of these lines: {found}",
            hint="one card in each file; " + COPY_AGAIN,
        )
    (first, _), (last, _) = marks
    return filter(None, lines[first + 1 : last])


def _fields(text: str) -> dict[str, str]:
    """The fields of the one card, continued lines joined."""
    parts: dict[str, list[str]] = {}
    name = ""
    for line in _lines(text):
        if match := FIELD.fullmatch(line):
            name, line = match[1], match[2]
            if name in parts:
                raise ConfigError(f"the card has the field {name} twice, expected once", hint=COPY_AGAIN)
        if not name:
            raise ConfigError(f"the card begins with {quoted(line)}, expected name:", hint=COPY_AGAIN)
        parts.setdefault(name, []).extend(line.split())
    for needed in NEEDED:
        if needed not in parts:
            raise ConfigError(f"the card lacks the field {needed}", hint=COPY_AGAIN)
    return {name: _joined(name, words) for name, words in parts.items()}


def _joined(name: str, words: list[str]) -> str:
    """Keys have no spaces but the one after their type, wherever a line was broken."""
    if name == "signature":
        return "".join(words)
    return " ".join([*words[:1], "".join(words[1:])]) if name in KEYS else " ".join(words)


def _check_unchanged(name: str, texts: Mapping[str, str], stated: str) -> None:
    expected, found = (
        dict(word.partition("=")[::2] for word in text.split()) for text in (stated, _checks(texts))
    )
    changed = [key for key in MEMBER_KEYS if expected.get(key) != found.get(key)]
    if changed:
        told = "; ".join(f"{key} is now {quoted(texts.get(key, 'missing'))}" for key in changed)
        raise ConfigError(f"the card of site {name} was changed after it was signed: {told}", hint=COPY_AGAIN)


def _check_signature(name: str, public_key: str, texts: Mapping[str, str], signature: str) -> None:
    try:
        armored = openssh.armor(base64.b64decode(signature, validate=True))
        identity.verify(public_key, _signed(texts), armored)
    except (ValueError, RejectedError) as error:
        own = identity.fingerprint(public_key)
        raise ConfigError(
            f"the card of site {name} is not signed by its own key {own}: {error}",
            hint="a key was swapped or the block was damaged; compare the fingerprint by telephone with the "
            "site, and ask for its card again",
        ) from error
