"""What was judged of each peer, so that nothing old is ever taken for new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from peer_sync.manifest import Manifest
from peer_sync.storage import number_in, read_state, write_state


@dataclass(frozen=True)
class Judged:
    """The newest offer of one peer that was accepted or refused.

    Attributes:
        sequence: its number; 0 before the first.
        digest: SHA-256 of its manifest, 64 hex digits.
        created: when it was made, as it states.
        is_accepted: whether it was accepted.
    """

    sequence: int = 0
    digest: str = ""
    created: str = ""
    is_accepted: bool = False

    def knows(self, sequence: int, data: bytes) -> bool:
        """Whether it is this one, to the byte of its manifest."""
        return sequence == self.sequence and sha256(data).hexdigest() == self.digest


class Memory:
    """One small durable file per peer.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def judged(self, peer: str) -> Judged:
        """See `Judged`. Raises `ConfigError` when the file is damaged."""
        path = self._path(peer)
        return _judged(read_state(path), path)

    def remember(self, peer: str, manifest: Manifest, verdict: str) -> None:
        """Never take an offer as old as this one again; ``verdict`` is ``accepted`` or ``refused``."""
        path = self._path(peer)
        state = read_state(path)
        if manifest.sequence > _judged(state, path).sequence:
            state["digest"] = sha256(manifest.to_bytes()).hexdigest()
            state["created"] = manifest.created
        state[verdict] = max(number_in(state, verdict, path), manifest.sequence)
        write_state(path, state)

    def _path(self, peer: str) -> Path:
        return self.folder / f"peer-{peer}.json"


def _judged(state: Mapping[str, Any], path: Path) -> Judged:
    accepted, refused = (number_in(state, verdict, path) for verdict in ("accepted", "refused"))
    digest, created = str(state.get("digest", "")), str(state.get("created", ""))
    return Judged(max(accepted, refused), digest, created, is_accepted=accepted > refused)
