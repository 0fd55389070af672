"""Small signed documents beside the offers: one of each kind, replaced when there is a newer one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from peer_sync import identity
from peer_sync.errors import ConfigError, RejectedError, TransportError, quoted
from peer_sync.manifest import PROTOCOL, canonical, read_time, write_time
from peer_sync.names import KINDS, document_name
from peer_sync.relay import publish_documents
from peer_sync.routes import way_to, way_to_relay
from peer_sync.server.keeper import Keeper
from peer_sync.site import Site
from peer_sync.storage import read_state, write_durably, write_state
from peer_sync.transport import Transport
from peer_sync.transport.folder import FolderTransport

__all__ = ["KINDS", "Document", "collect", "publish", "served"]

MAX_BYTES = 4 << 20
FIELDS = {"protocol", "federation", "site", "kind", "created", "content"}


@dataclass(frozen=True)
class Document:
    """What one site states about itself, signed.

    Attributes:
        site: who states it.
        kind: one of `KINDS`.
        created: when, by that site's clock, in whole seconds.
        content: plain JSON; whoever uses it has to check it.
    """

    site: str
    kind: str
    created: datetime
    content: dict[str, Any]


def publish(site: Site, kind: str, content: Mapping[str, Any]) -> Document:
    """Sign ``content`` and put it into the outbox in the place of the last one, and onto the relay.

    Args:
        site: whose outbox.
        kind: one of `KINDS`.
        content: plain JSON, at most 4 MiB.

    Raises:
        ConfigError: the content is too large, or our key cannot be used.
        TransportError: the folder or the relay cannot be written now; it is in the outbox in the second case.
    """
    document = Document(site.name, _known(kind), _now(site, kind), dict(content))
    line = _line(document, site.federation.name)
    data = line + identity.sign(identity.load_site_key(site.private_key, site.member.public_key), line)
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"the document {kind} has {len(data)} bytes, expected at most {MAX_BYTES}", hint="send less"
        )
    outbox = site.folder / "outbox"
    with _disk(site):
        outbox.mkdir(parents=True, exist_ok=True)
        write_durably(outbox / document_name(kind), data)
    copy_to_relay(site)
    return document


def collect(site: Site, peer: str, kind: str) -> Document:
    """Fetch and check a peer's document; our own one comes from the outbox.

    Raises:
        NotFoundError: the peer has not published it.
        TransportError: the peer cannot be reached.
        RejectedError: rule ``size``, ``signature``, ``document``, ``protocol``, ``federation``, ``site`` or
            ``older`` (than one that was collected before).
    """
    with _disk(site), tempfile.TemporaryDirectory() as folder, closing(_way(site, peer)) as way:
        target = Path(folder) / "document"
        way.get(document_name(_known(kind)), target, MAX_BYTES)
        data = target.read_bytes()
        document = parse(data, site, peer, kind)
        if peer != site.name:
            _check_not_older(site, document)
    return document


def parse(data: bytes, site: Site, peer: str, kind: str) -> Document:
    """Check a document's bytes: signature first, then every field. Raises `RejectedError` as `collect`."""
    line, end, signature = data.partition(b"\n")
    line += end
    try:
        identity.verify(site.federation.member(peer).public_key, line, signature)
        facts = _facts(line)
    except RejectedError as error:
        raise _refused(peer, kind, error.rule, str(error)) from error
    for rule, name, expected in (
        ("protocol", "protocol", PROTOCOL),
        ("federation", "federation", site.federation.name),
        ("site", "site", peer),
        ("document", "kind", kind),
    ):
        if facts[name] != expected:
            raise _refused(peer, kind, rule, f"{name}: expected {expected!r}, found {quoted(facts[name])}")
    document = Document(peer, kind, read_time(facts["created"]), facts["content"])
    if not _is_canonical(document, site.federation.name, line):
        raise _refused(peer, kind, "document", "expected canonical JSON, found another spelling")
    return document


def copy_to_relay(site: Site) -> None:
    """Put those of our documents onto the relay that it does not have as they are now; nothing without one.

    Raises:
        TransportError: the relay cannot be reached, or does not take them.
    """
    relay = way_to_relay(site)
    if relay is not None:
        with _disk(site), closing(relay):
            publish_documents(site.folder / "outbox", relay)


@contextmanager
def served(site: Site) -> Iterator[None]:
    """Peers can read our outbox meanwhile: the embedded server runs, unless there is one, or no ``listen``.

    Raises:
        ConfigError: the server cannot start.
    """
    keeper = Keeper(site)
    keeper.check()
    try:
        yield
    finally:
        keeper.stop()


def _facts(line: bytes) -> dict[str, Any]:
    """The fields of a document, of the right types."""
    try:
        facts = json.loads(line.decode("ascii"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _malformed("JSON in ASCII, found something else") from error
    if not isinstance(facts, dict) or facts.keys() != FIELDS:
        raise _malformed(f"an object with the fields {', '.join(sorted(FIELDS))}, found others")
    if not isinstance(facts["content"], dict):
        raise _malformed(f"an object as content, found {type(facts['content']).__name__}")
    for name in FIELDS - {"content"}:
        if not isinstance(facts[name], str):
            raise _malformed(f"text as {name}, found {type(facts[name]).__name__}")
    try:
        read_time(facts["created"])
    except ValueError as error:
        raise _malformed(f"a time in UTC as created, found {quoted(facts['created'])}") from error
    return facts


def _line(document: Document, federation: str) -> bytes:
    """In canonical JSON. Raises ValueError for a number that JSON does not have."""
    facts = {
        "protocol": PROTOCOL,
        "federation": federation,
        "site": document.site,
        "kind": document.kind,
        "created": write_time(document.created),
        "content": document.content,
    }
    return canonical(facts)


def _is_canonical(document: Document, federation: str, line: bytes) -> bool:
    """Whether it is the one spelling; 1e999 (read as infinity) and too many levels have none."""
    try:
        return _line(document, federation) == line
    except (ValueError, RecursionError):
        return False


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return kind


def _now(site: Site, kind: str) -> datetime:
    """Now, but later than what we published before: peers take nothing older, and clocks are put back."""
    path = site.folder / "state" / "documents.json"
    now = datetime.now(UTC).replace(microsecond=0)
    with _disk(site):
        path.parent.mkdir(parents=True, exist_ok=True)
        last = read_state(path)
        if kind in last:
            now = max(now, read_time(str(last[kind])) + timedelta(seconds=1))
        write_state(path, {**last, kind: write_time(now)})
    return now


def _check_not_older(site: Site, document: Document) -> None:
    """Whoever keeps a peer's outbox must not be able to put an old document back."""
    path = site.folder / "state" / f"documents-{document.site}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    last, created = read_state(path), write_time(document.created)
    if created < str(last.get(document.kind, "")):
        raise _refused(
            document.site,
            document.kind,
            "older",
            f"expected one of {last[document.kind]} or later, found one of {created}",
            hint="an old document was put back, or that site lost its state folder",
        )
    if created != last.get(document.kind):
        write_state(path, {**last, document.kind: created})


def _way(site: Site, peer: str) -> Transport:
    return FolderTransport(site.folder / "outbox") if peer == site.name else way_to(site, peer)


@contextmanager
def _disk(site: Site) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransportError(
            f"cannot use {site.folder}: {error.strerror}", hint="check free space and rights"
        ) from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _malformed(expected: str) -> RejectedError:
    return RejectedError("document", f"expected {expected}")


def _refused(peer: str, kind: str, rule: str, message: str, hint: str = "") -> RejectedError:
    return RejectedError(rule, f"document {kind} of site {peer!r}: {message}", hint)
