"""Pure arithmetic of the schedule: is a round over, which round is it, who is the peer."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from peer_sync.errors import ConfigError


def is_round_end(epochs_done: int, warmup_epochs: int, epochs_per_round: int) -> bool:
    """Whether an exchange is due after ``epochs_done`` epochs.

    The first is at the end of the warm-up, then every ``epochs_per_round`` epochs one.
    """
    return epochs_done >= warmup_epochs and (epochs_done - warmup_epochs) % epochs_per_round == 0


def round_number(epochs_done: int, warmup_epochs: int, epochs_per_round: int) -> int:
    """The number of the last exchange that was due: 0 during the warm-up, 1 at its end."""
    if epochs_done < warmup_epochs:
        return 0
    return 1 + (epochs_done - warmup_epochs) // epochs_per_round


def draw_peer(seed: int, site: str, round: int, peers: Iterable[str]) -> str:
    """The peer of ``site`` in a round: the same for everyone who asks, uniform over ``peers``.

    ``peers`` may contain the site itself, which is never drawn. Raises `ConfigError`
    when nobody is left.
    """
    others = sorted(set(peers) - {site})
    if not others:
        raise ConfigError(f"site {site!r} has no peer to draw", hint="a federation needs at least two sites")
    digest = sha256(f"nnunet-gml gossip\n{seed}\n{site}\n{round}\n".encode()).digest()
    return others[int.from_bytes(digest) % len(others)]
