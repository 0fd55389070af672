"""Documents of our own and of all peers: published once, asked for at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from peer_sync import documents
from peer_sync.documents import Document
from peer_sync.errors import NotFoundError, PeerSyncError, RejectedError, TransportError
from peer_sync.site import Site

MOST_AT_ONCE = 8
T = TypeVar("T")


def own_document(site: Site, kind: str) -> Document | None:
    """What we have published ourselves, if it is there and undamaged."""
    with suppress(NotFoundError, RejectedError):
        return documents.collect(site, site.name, kind)
    return None


def publish_once(site: Site, kind: str, content: Mapping[str, Any]) -> bool:
    """Publish ``content``, unless it is published already; then only see to the relay.

    Returns:
        Whether it is news. Raises as `peer_sync.documents.publish`.
    """
    own = own_document(site, kind)
    if own is not None and own.content == content:
        documents.copy_to_relay(site)
        return False
    documents.publish(site, kind, content)
    return True


def ask_all(
    site: Site, kind: str, read: Callable[[Document], T], peers: Sequence[str] | None = None
) -> dict[str, T | PeerSyncError]:
    """What each peer has published, as ``read`` returns it, or why that is not known.

    Args:
        site: ours.
        kind: of the documents.
        read: checks a document; may raise any `PeerSyncError`.
        peers: whom to ask; None means all.
    """
    asked = site.federation.peers_of(site.name) if peers is None else tuple(peers)

    def ask(peer: str) -> T | PeerSyncError:
        try:
            return read(documents.collect(site, peer, kind))
        except PeerSyncError as error:
            return error

    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        return dict(zip(asked, threads.map(ask, asked), strict=True))


def come_and_missing(kind: str, answers: Mapping[str, T | PeerSyncError]) -> tuple[dict[str, T], list[str]]:
    """Divide what `ask_all` returned into what has come, and phrases on what may still come.

    Raises:
        PeerSyncError: an answer that trying again would not change, such as a refusal.
    """
    come: dict[str, T] = {}
    missing = []
    for peer, answer in answers.items():
        if isinstance(answer, TransportError):
            reason = "not published yet" if isinstance(answer, NotFoundError) else answer
            missing.append(f"{kind} of site {peer}: {reason}")
        elif isinstance(answer, PeerSyncError):
            raise answer
        else:
            come[peer] = answer
    return come, missing
