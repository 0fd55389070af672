"""Copies the outbox to a relay, in the order that keeps every offer whole at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peer_sync import names
from peer_sync.checks import MAX_SEQUENCE_JUMP
from peer_sync.errors import ConfigError, NotFoundError, TransportError
from peer_sync.storage import read_state, sha256_of, write_state
from peer_sync.transport import Transport


@dataclass(frozen=True)
class Published:
    """What one copy did.

    Attributes:
        files: how many files were put there.
        bytes: their bytes.
        sequence: the newest offer the relay holds now; 0 when none.
    """

    files: int
    bytes: int
    sequence: int


def publish(outbox: Path, transport: Transport) -> Published:
    """Make the relay's folder equal to ``outbox``, which may change meanwhile.

    Raises:
        TransportError: the relay cannot be reached, or does not take it; later it may.
        ConfigError: the relay holds newer offers than the outbox.
    """
    with _folder_there():
        there = set(transport.names())
        offers = _put_offers(outbox, set(filter(names.is_published, there)), transport)
        documents = _put_documents(outbox, there, transport)
    return Published(offers.files + len(documents), offers.bytes + sum(documents), offers.sequence)


def publish_documents(outbox: Path, transport: Transport) -> None:
    """Copy the signed documents of ``outbox`` to the relay, and no offers. Raises as `publish`."""
    with _folder_there():
        _put_documents(outbox, set(transport.names()), transport)


@contextmanager
def _folder_there() -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise TransportError(str(error), hint="the folder on the relay must be there before") from error


def _put_documents(outbox: Path, there: set[str], transport: Transport) -> list[int]:
    """Put what the relay does not have in its present form; returns the sizes."""
    state = outbox.with_name("state") / "relayed.json"
    held, sizes = read_state(state), []
    for path in sorted(filter(lambda path: names.is_document(path.name), outbox.iterdir())):
        digest = sha256_of(path)
        if path.name not in there or held.get(path.name) != digest:
            sizes.append(_put(path, transport))
            held[path.name] = digest
            write_state(state, held)
    return sizes


def _put_offers(outbox: Path, there: set[str], transport: Transport) -> Published:
    kept = names.whole(path.name for path in outbox.iterdir())
    _check_newest(kept, there)
    transport.remove_parts()
    missing = [path for path in _in_order(outbox, kept) if path.name not in there]
    sizes = [_put(path, transport) for path in missing]
    old = [name for name in there if names.sequence_of(name) not in kept]
    for name in sorted(old, key=_manifest_first):
        transport.remove(name)
    return Published(sum(size > 0 for size in sizes), sum(sizes), max(kept, default=0))


def _check_newest(kept: list[int], there: set[str]) -> None:
    newest, ours = names.newest_whole(there), max(kept, default=0)
    if newest <= ours:
        return
    hint = "somebody else has put it there: remove it from the relay"
    if newest <= ours + MAX_SEQUENCE_JUMP:
        hint = (
            "if another installation of this site uses the relay, stop one of them; if this one lost its "
            f'state, write {{"sequence": {newest}}} into state/sequence.json; else remove it from the relay'
        )
    raise ConfigError(f"the relay holds offer {newest}, but the newest in our outbox is {ours}", hint=hint)


def _in_order(outbox: Path, kept: list[int]) -> list[Path]:
    """The files of whole offers, oldest first; of each the payload first and the manifest last."""
    published = [path for path in outbox.iterdir() if names.sequence_of(path.name) in kept]
    return sorted(published, key=lambda path: (names.sequence_of(path.name), _rank(path.name)))


def _rank(name: str) -> int:
    return 2 if name.endswith(".json") else 1 if name.endswith(".sig") else 0


def _manifest_first(name: str) -> tuple[int, str]:
    return -_rank(name), name


def _put(path: Path, transport: Transport) -> int:
    """Its bytes; 0 when the training has removed the offer meanwhile."""
    try:
        size = path.stat().st_size
        transport.put(path, path.name)
    except FileNotFoundError:
        return 0
    return size
