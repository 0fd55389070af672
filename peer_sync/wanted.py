"""What a training without network wants from its agent: one small file, replaced with each round."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from peer_sync.errors import ConfigError
from peer_sync.storage import write_durably


@dataclass(frozen=True)
class Wanted:
    """An order that the agent collects for.

    Attributes:
        peers: whom to ask, each on its own.
        round: the training's round.
        plans_digest: digest of its plans.
        schema_digest: digest of its tensors' names and shapes.
        payload_bytes: exact size of a valid weights file, for each type.
        least_round: an offer of an earlier round is not wanted.
        token: names this order, also where a training was continued and orders its round again.
    """

    peers: tuple[str, ...]
    round: int
    plans_digest: str
    schema_digest: str
    payload_bytes: Mapping[str, int]
    least_round: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def write(self, path: Path) -> None:
        """Replace the order in ``path``. Raises OSError."""
        write_durably(path, json.dumps(asdict(self), sort_keys=True).encode() + b"\n")


def read_wanted(path: Path) -> Wanted | None:
    """The order in ``path``; None when there is none. Raises `ConfigError` where it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        peers = content.pop("peers")
        if not isinstance(peers, list) or not all(type(peer) is str for peer in peers):
            raise ValueError("peers is no list of names")
        return Wanted(peers=tuple(peers), **content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", hint="the training's next round writes it anew"
        ) from error
