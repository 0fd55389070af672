"""The signed facts about one offer, as canonical JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from peer_sync import names
from peer_sync.errors import RejectedError, quoted

PROTOCOL = "nnunet-gml/1"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
MAX_NUMBER = 2**53 - 1
MAX_CLASSES = 1024
MAX_WORD_CHARACTERS = 128
DTYPES = ("float16", "float32", "int8")


@dataclass(frozen=True)
class Facts:
    """What the trainer says about the weights it offers.

    Attributes:
        round: the sender's round.
        epoch: epochs the weights were trained.
        plans_digest: SHA-256 of the shared plans, 64 hex digits.
        schema_digest: SHA-256 over names and shapes of the tensors, 64 hex digits.
        dtype: one of `DTYPES`.
        labelled: the classes the sender contours.
        cases: number of training cases; None when withheld.
        dice: mean Dice per class on the sender's own validation cases; None when withheld.
    """

    round: int
    epoch: int
    plans_digest: str
    schema_digest: str
    dtype: str
    labelled: tuple[str, ...]
    cases: int | None = None
    dice: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that is signed; PROTOCOL.md has a table of the fields."""

    protocol: str
    federation: str
    federation_version: int
    site: str
    sequence: int
    created: str
    expires: str
    round: int
    epoch: int
    plans_digest: str
    schema_digest: str
    labelled: tuple[str, ...]
    cases: int | None
    dice: Mapping[str, float] | None
    payload: str
    payload_bytes: int
    sha256: str
    dtype: str
    encryption: str
    weights_bytes: int
    recipients: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        """The part that the sender's trainer stated."""
        return Facts(**{field.name: getattr(self, field.name) for field in fields(Facts)})

    @property
    def created_at(self) -> datetime:
        """When the offer was made, by the sender's clock."""
        return read_time(self.created)

    @property
    def expires_at(self) -> datetime:
        """When the offer stops being valid."""
        return read_time(self.expires)

    def to_bytes(self) -> bytes:
        """In canonical JSON."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content["dice"] = None if self.dice is None else dict(self.dice)
        return canonical(content)


def canonical(content: Mapping[str, Any]) -> bytes:
    """Canonical JSON, what is signed: sorted keys, no spaces, ASCII, one line feed at the end."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def write_time(moment: datetime) -> str:
    """UTC in whole seconds, as it stands in manifests and the ledger."""
    return moment.astimezone(UTC).strftime(TIME_FORMAT)


def read_time(text: str) -> datetime:
    """The reverse of `write_time`. Raises ValueError."""
    moment = datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    if write_time(moment) != text:
        raise ValueError(f"{text!r} is not spelled as {TIME_FORMAT}")
    return moment


def parse(data: bytes) -> Manifest:
    """Read a manifest from a stranger's bytes.

    Raises:
        RejectedError: rule ``manifest``, or ``protocol`` for another version.
    """
    try:
        content = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise _refused(f"JSON in ASCII, found {len(data)} bytes of something else") from error
    if not isinstance(content, dict):
        raise _refused(f"a JSON object, found {type(content).__name__}")
    if content.get("protocol") != PROTOCOL:
        found = repr(content.get("protocol"))[:80]
        raise RejectedError(
            "protocol",
            f"protocol: expected {PROTOCOL!r}, found {found}",
            hint="both sites need the same version",
        )
    manifest = _checked(content)
    if manifest.to_bytes() != data:
        raise _refused(
            "canonical JSON (sorted keys, no spaces, line feed at the end), found another spelling"
        )
    return manifest


def _checked(content: dict[str, Any]) -> Manifest:
    expected = {field.name for field in fields(Manifest)}
    if content.keys() != expected:
        wrong = sorted(expected ^ content.keys())
        raise _refused(f"exactly {len(expected)} known fields, found a difference in {repr(wrong)[:200]}")
    for name, is_good in RULES.items():
        if not is_good(content[name]):
            raise _refused(f"a valid field {name!r}, found {repr(content[name])[:80]}")
    if content["payload"] != _payload_name(content):
        raise _refused(f"the payload's name made of sequence and sha256, found {quoted(content['payload'])}")
    lists = {name: tuple(content[name]) for name in ("labelled", "recipients")}
    return Manifest(**{**content, **lists})


def _payload_name(content: Mapping[str, Any]) -> str:
    return names.payload_name(content["sequence"], content["sha256"], content["encryption"])


def _refused(expected: str) -> RejectedError:
    return RejectedError("manifest", f"manifest: expected {expected}")


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and names.DIGEST.fullmatch(value) is not None


def _is_site(value: object) -> bool:
    return isinstance(value, str) and names.SITE.fullmatch(value) is not None


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_WORD_CHARACTERS and value.isprintable()


def _is_list_of(value: object, is_item: Callable[[object], bool]) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_CLASSES
        and all(map(is_item, value))
        and len(set(value)) == len(value)
    )


def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        read_time(value)
    except ValueError:
        return False
    return True


def _is_dice(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_CLASSES
        and all(map(_is_word, value))
        and all(type(score) is float and 0 <= score <= 1 for score in value.values())
    )


RULES: dict[str, Callable[[Any], bool]] = {
    "federation": _is_digest,
    "federation_version": lambda value: _is_number(value) and value > 0,
    "site": _is_site,
    "sequence": lambda value: _is_number(value) and 1 <= value <= names.MAX_SEQUENCE,
    "created": _is_time,
    "expires": _is_time,
    "round": _is_number,
    "epoch": _is_number,
    "plans_digest": _is_digest,
    "schema_digest": _is_digest,
    "labelled": lambda value: _is_list_of(value, _is_word),
    "cases": lambda value: value is None or _is_number(value),
    "dice": lambda value: value is None or _is_dice(value),
    "payload": lambda value: isinstance(value, str),
    "payload_bytes": lambda value: _is_number(value) and value > 0,
    "sha256": _is_digest,
    "dtype": lambda value: value in DTYPES,
    "encryption": lambda value: isinstance(value, str) and value in names.ENDINGS,
    "weights_bytes": lambda value: _is_number(value) and value > 0,
    "recipients": lambda value: _is_list_of(value, _is_site),
}
