"""The only file names that exist between sites. Anything else in a listing is ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable

SITE = re.compile(r"[a-z0-9-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
PUBLISHED = re.compile(r"([0-9]{10})(\.json|\.json\.sig|-[0-9a-f]{64}\.safetensors(?:\.age)?)")
KINDS = ("about", "plans", "counts", "fingerprint")
"""Kinds of documents; `peer_sync.documents` says what they are."""
DOCUMENT = re.compile(rf"({'|'.join(KINDS)})\.document")
ENDINGS = {"none": "safetensors", "age": "safetensors.age"}
PART_PREFIX = ".part-"
MAX_SEQUENCE = 9_999_999_999


def payload_name(sequence: int, digest: str, encryption: str = "none") -> str:
    """Name of an offer's payload; ``encryption`` is one of `ENDINGS`."""
    return f"{sequence:010d}-{digest}.{ENDINGS[encryption]}"


def manifest_name(sequence: int) -> str:
    """Name of an offer's manifest: where it is, the offer is."""
    return f"{sequence:010d}.json"


def signature_name(sequence: int) -> str:
    """Name of the signature over an offer's manifest."""
    return f"{sequence:010d}.json.sig"


def document_name(kind: str) -> str:
    """Name of a signed document; ``kind`` is one of `KINDS`."""
    return f"{kind}.document"


def is_published(name: str) -> bool:
    """Whether a name from anywhere is one of the three files of an offer."""
    return PUBLISHED.fullmatch(name) is not None


def is_document(name: str) -> bool:
    """Whether a name from anywhere is that of a document."""
    return DOCUMENT.fullmatch(name) is not None


def is_served(name: str) -> bool:
    """Whether peers may read a file of this name."""
    return is_published(name) or is_document(name)


def sequence_of(name: str) -> int:
    """The sequence number in a published name; 0 for any other name."""
    match = PUBLISHED.fullmatch(name)
    return int(match[1]) if match else 0


def whole(listing: Iterable[str]) -> list[int]:
    """The sequences of which manifest, signature and a payload are listed, sorted."""
    kinds: dict[int, set[str]] = {}
    for name in listing:
        match = PUBLISHED.fullmatch(name)
        if match:
            kind = "payload" if match[2].startswith("-") else match[2]
            kinds.setdefault(int(match[1]), set()).add(kind)
    return sorted(sequence for sequence, found in kinds.items() if len(found) == 3)


def newest_whole(listing: Iterable[str]) -> int:
    """The highest sequence of which all three files are listed; 0 when there is none."""
    return max(whole(listing), default=0)
