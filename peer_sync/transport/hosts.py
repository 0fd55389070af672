"""The SSH servers on the way to a peer: one, or two with a jump host between us and the peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peer_sync import identity
from peer_sync.address import Address, Patience, parse_address
from peer_sync.errors import RejectedError
from peer_sync.site import Jump

ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
MAX_KEY_CHARACTERS = 200


@dataclass(frozen=True)
class Host:
    """One SSH server.

    Attributes:
        address: where it is.
        host_key: its pinned public key; any other is refused.
        user: who we are there.
        title: what messages call it.
    """

    address: Address
    host_key: str
    user: str
    title: str

    def __str__(self) -> str:
        return self.title

    def algorithms(self) -> tuple[str, ...]:
        """How the pinned key may sign."""
        kind = self.host_key.split()[0]
        return ALGORITHMS.get(kind, (kind,))

    def check_key(self, found: str) -> None:
        """Compare the key that a server showed with the pinned one. Raises `RejectedError`."""
        if not identity.same_key(found, self.host_key):
            raise self.wrong_key(found[:MAX_KEY_CHARACTERS])

    def wrong_key(self, found: str) -> RejectedError:
        """The error for another key than the pinned one."""
        return RejectedError(
            "host-key",
            f"host key of {self}: expected {self.host_key}, found {found}",
            hint="ask by another way whether that server changed; nothing was sent to it",
        )


@dataclass(frozen=True)
class Way:
    """All that is needed to get to a peer.

    Attributes:
        peer: where its files are.
        jump: the host between us and the peer, or None.
        private_key: our key's file, for both.
        key_line: its public line, for a key that only ssh-agent has; may be empty.
        patience: time limits.
    """

    peer: Host
    jump: Host | None
    private_key: Path
    key_line: str
    patience: Patience


def way(
    address: str,
    host_key: str,
    user: str,
    jump: Jump | None,
    private_key: Path,
    key_line: str,
    patience: Patience,
) -> Way:
    """The way to a server, through ``jump`` if there is one; ``user`` is for addresses without a user."""
    target = parse_address(address)
    if jump is None:
        between, title = None, str(target)
    else:
        first = parse_address(jump.address)
        between = Host(first, jump.host_key, first.user or user, f"the jump host {first}")
        title = f"{target} behind {first}"
    return Way(Host(target, host_key, target.user or user, title), between, private_key, key_line, patience)
