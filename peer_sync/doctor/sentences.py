"""Failures in sentences that can be sent to an IT desk as they are: who, whence, whither, when, what."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from peer_sync.doctor import reach
from peer_sync.doctor.reach import Miss

OTHER_SIDE = "If this is allowed here, the IT desk of {whose} has to allow it as incoming traffic."
RELAY = (
    "If nobody can dial in there (NAT, a laptop), no rule will help: then that site puts a copy of its "
    "outbox on a relay, which is `relay` in its site.toml and its address in federation.toml "
    "(docs/how-to/network.md)."
)


@dataclass(frozen=True)
class Attempt:
    """What was tried, for somebody who knows networks and nothing of us.

    Attributes:
        whose: whom the server belongs to, such as ``site 'east'``.
        source: an address of ours; empty when it is not known.
        host: name of the server.
        address: what the name resolves to; empty before that is known.
        port: TCP.
        way: how, where not directly; such as ``through the jump host ...``.
        key: type and fingerprint of our login key.
    """

    whose: str
    source: str
    host: str
    address: str
    port: int
    way: str
    key: str

    def tell(self, found: str, please: str) -> str:
        """The whole report of one failure."""
        here = socket.gethostname()
        source = f"{here} ({self.source})" if self.source else here
        numeric = f" ({self.address})" if self.address not in ("", self.host) else ""
        way = f", {self.way}" if self.way else ""
        return (
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: SSH (SFTP) over TCP from {source} "
            f"to {self.host}{numeric} port {self.port}{way}, login key {self.key}: {found}. {please}"
        )

    @property
    def allow(self) -> str:
        """The rule that a firewall needs."""
        return (
            f"allow outgoing TCP connections from {self.source or 'this machine'} "
            f"to {self.address or self.host} port {self.port}"
        )


def no_name(attempt: Attempt, reason: str) -> str:
    """The name does not resolve."""
    return attempt.tell(
        f"the name servers of this machine do not know {attempt.host} ({reason})",
        "Please look for a typing error in the address in federation.toml; if there is none, please make "
        f"this name known to this machine. If {attempt.whose} has another name now: federation add "
        "--replace with its new card, and the new file for every site.",
    )


def no_port(attempt: Attempt, misses: Sequence[Miss]) -> str:
    """Nobody answers."""
    found = "; ".join(f"{miss.address}: {miss.words}" for miss in misses)
    other_side = OTHER_SIDE.format(whose=attempt.whose)
    please = {
        reach.REFUSED: "Either no server runs there, or a firewall refuses. Please ask "
        f"{attempt.whose} whether its server runs (a training, nnunet-gml serve, or sshd); if it does, "
        f"please {attempt.allow}. {other_side}",
        reach.TIMEOUT: "A firewall on the way most likely drops the packets. "
        f"Please {attempt.allow}. {other_side}",
        reach.UNREACHABLE: f"There is no route. Please see to a route, and {attempt.allow}.",
        reach.FORBIDDEN: f"This machine itself forbids it. Please {attempt.allow} in its own firewall.",
    }
    typed = f"Is {attempt.host} port {attempt.port} the right address (nnunet-gml federation show)? "
    kind = misses[0].kind
    advice = please.get(kind, f"Please {attempt.allow}. {other_side}")
    return attempt.tell(found, advice if kind == reach.FORBIDDEN else f"{typed}{advice} {RELAY}")


def no_greeting(attempt: Attempt, found: str) -> str:
    """The port is open, and SSH does not come through."""
    return attempt.tell(
        f"the TCP connection stands, but the server said {found}",
        f"Either a firewall or proxy answers in place of the server, or the server is overloaded or another "
        f"program. Please let SSH through unchanged, and {attempt.allow}; "
        f"please ask {attempt.whose} whether an SSH server listens on this port.",
    )


def other_host_key(attempt: Attempt, found: str, expected: str, owner: str = "") -> str:
    """Somebody else answers, or the server has a new key; ``owner`` is the site with the key found."""
    if owner:
        return attempt.tell(
            f"the server showed the host key {found}, which is that of site {owner!r}; expected {expected}; "
            "nothing was sent to it",
            f"The address leads to site {owner!r}, or two host keys were swapped. Please compare address and "
            "host key with the cards (nnunet-gml federation show), mend them in federation.toml, and send it "
            "to every site.",
        )
    return attempt.tell(
        f"the server showed the host key {found}, expected {expected} as pinned in our configuration; "
        "nothing was sent to it",
        "Either the server has a new key, or something on the way reads SSH traffic. Please ask "
        f"{attempt.whose} by telephone which key its server has. Please do not inspect (intercept) SSH "
        f"from {attempt.source or 'this machine'} to port {attempt.port} there.",
    )


def no_login(attempt: Attempt, found: str, line: str) -> str:
    """The server does not let us in."""
    return attempt.tell(
        found,
        f"Please ask {attempt.whose} to let this key in: {line} (the built-in server takes it from "
        "federation.toml, which must be the same at both sites; sshd from authorized_keys, "
        "or what its AuthorizedKeysFile names, which has to be written anew when federation.toml changes; "
        "the log of that server says why it refused).",
    )


def no_session(attempt: Attempt, found: str) -> str:
    """Something went wrong between greeting and listing."""
    return attempt.tell(
        f"SSH did not get as far as a listing of the outbox: {found}",
        f"Please ask {attempt.whose} what its server's log says about this minute, and let SSH pass "
        f"unchanged and unlimited from {attempt.source or 'this machine'} to port {attempt.port} there.",
    )


def no_outbox(attempt: Attempt, found: str) -> str:
    """Logged in, but the folder cannot be read."""
    return attempt.tell(
        f"the login works, but the outbox cannot be read: {found}",
        f"Please ask {attempt.whose} whether the path in its address is right and this user may read it.",
    )
