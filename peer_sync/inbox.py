"""What has come from peers: deliveries that wait for the training, and payloads that are still coming."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from peer_sync import manifest as manifests
from peer_sync.checks import Expectation, check_manifest, check_payload
from peer_sync.errors import PeerSyncError, TransportError
from peer_sync.manifest import Manifest
from peer_sync.storage import (
    remove,
    remove_parts,
    sha256_of,
    size_of,
    sync_file,
    sync_folder,
    write_durably,
)

KEPT_DELIVERIES = 2
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"
WEIGHTS_FILE = "weights.safetensors"
NOTE_FILE = "delivery.json"
BEGUN_PREFIX = ".begun-"
ANSWERED_PREFIX = ".answered-"


@dataclass(frozen=True)
class Delivery:
    """A peer's offer that kept every rule this package knows; the trainer still has to judge the weights.

    Attributes:
        peer: whose weights.
        manifest: the signed facts.
        payload: the weights file in our inbox.
        round: our round in which it was collected.
        transferred_bytes: manifest, signature and payload together, with attempts that failed before.
        seconds: how long collecting took.
        retries: failed attempts before it worked.
        remark: what a person should know about it, such as its great age; may be empty.
    """

    peer: str
    manifest: Manifest
    payload: Path
    round: int
    transferred_bytes: int = 0
    seconds: float = 0.0
    retries: int = 0
    remark: str = ""

    def facts(self) -> dict[str, str | int | float | None]:
        """This delivery, for the ledger."""
        return {
            "event": "collect",
            "peer": self.peer,
            "round": self.round,
            "sequence": self.manifest.sequence,
            "bytes": self.transferred_bytes,
            "seconds": self.seconds,
            "retries": self.retries,
            "message": self.remark or None,
        }


class Inbox:
    """One folder per peer with its last deliveries, and one beside it with what is still coming.

    Args:
        folder: where these folders are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claiming = threading.Lock()
        self._claims: list[_Claim] = []

    def clean(self) -> None:
        """Remove what an interrupted run left and nobody can use."""
        remove_parts(self.folder)

    def begun(self, peer: str, name: str) -> Path:
        """Where the payload ``name`` of a peer grows; what was begun of others is removed."""
        home = self.folder / f"{BEGUN_PREFIX}{peer}"
        for path in home.iterdir() if home.is_dir() else ():
            if path.name != name:
                remove(path)
        return home / name

    @contextmanager
    def room(self, needed_bytes: int, spare_bytes: int, places: Sequence[Path]) -> Iterator[None]:
        """Keep room on the disk for a download, so that others beside it do not count on the same.

        Args:
            needed_bytes: of all that is written.
            spare_bytes: what must stay free beside all downloads.
            places: where it is written; what is there already needs no room any more.

        Raises:
            TransportError: there is not enough.
        """
        claim = _Claim(needed_bytes, tuple(places))
        with self._claiming:
            free = shutil.disk_usage(self.folder).free - sum(other.missing() for other in self._claims)
            needed = claim.missing() + spare_bytes
            if free < needed:
                raise TransportError(
                    f"disk: expected {needed} free bytes for the weights, found {max(0, free)}",
                    hint=f"make room on the disk of {self.folder}",
                )
            self._claims.append(claim)
        try:
            yield
        finally:
            with self._claiming:
                self._claims.remove(claim)

    def answer(self, peer: str, token: str) -> None:
        """Note that an order was answered, by weights or by a refusal; see `peer_sync.wanted`."""
        if token:
            write_durably(self.folder / f"{ANSWERED_PREFIX}{peer}", token.encode())

    def is_answered(self, peer: str, token: str) -> bool:
        """Whether this order was answered."""
        try:
            return (self.folder / f"{ANSWERED_PREFIX}{peer}").read_text() == token
        except FileNotFoundError:
            return False

    def settle(self, staging: Path, delivery: Delivery) -> Delivery:
        """Give checked files their place; the last two deliveries of each peer stay.

        Args:
            staging: folder with manifest, signature and weights.
            delivery: what is known about them.
        """
        note = {name: getattr(delivery, name) for name in NOTED}
        write_durably(staging / NOTE_FILE, json.dumps(note).encode() + b"\n")
        sync_file(staging / WEIGHTS_FILE)
        home = self.folder / delivery.peer
        home.mkdir(exist_ok=True)
        place = home / f"{delivery.manifest.sequence:010d}-{staging.name[-16:]}"
        older = self._places(delivery.peer)
        staging.rename(place)
        sync_folder(home)
        for path in older[: 1 - KEPT_DELIVERIES]:
            with suppress(OSError):
                remove(path)
        return _moved(delivery, place)

    def newest(self, peer: str) -> Delivery | None:
        """The last delivery of a peer; None when there is none."""
        for place in reversed(self._places(peer)):
            try:
                note = json.loads((place / NOTE_FILE).read_bytes())
                manifest = manifests.parse((place / MANIFEST_FILE).read_bytes())
                facts = {name: kind(note[name]) for name, kind in NOTED.items()}
            except (OSError, ValueError, KeyError, TypeError, PeerSyncError):
                continue
            return Delivery(peer=peer, manifest=manifest, payload=place / WEIGHTS_FILE, **facts)
        return None

    @staticmethod
    def check(delivery: Delivery, expected: Expectation) -> None:
        """Judge a delivery once more; of encrypted weights there is no hash. Raises `RejectedError`."""
        place, manifest = delivery.payload.parent, delivery.manifest
        data, signature = ((place / name).read_bytes() for name in (MANIFEST_FILE, SIGNATURE_FILE))
        check_manifest(data, signature, manifest.sequence, expected)
        if manifest.encryption == "none":
            check_payload(manifest, delivery.payload.stat().st_size, sha256_of(delivery.payload))

    def _places(self, peer: str) -> list[Path]:
        """Oldest first; the agent may remove one at any moment."""
        home, found = self.folder / peer, []
        for path in home.iterdir() if home.is_dir() else ():
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]


@dataclass(frozen=True, eq=False)
class _Claim:
    """Room on the disk that a download still needs."""

    needed_bytes: int
    places: tuple[Path, ...]

    def missing(self) -> int:
        return max(0, self.needed_bytes - sum(map(size_of, self.places)))


NOTED = {"round": int, "transferred_bytes": int, "seconds": float, "retries": int, "remark": str}


def _moved(delivery: Delivery, place: Path) -> Delivery:
    return Delivery(**{**vars(delivery), "payload": place / WEIGHTS_FILE})
