"""Do the peers come in? The access log of our built-in server knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from peer_sync.ages import ago
from peer_sync.doctor.findings import OK, UNKNOWN, WARNING, Result
from peer_sync.manifest import read_time
from peer_sync.server.access import OLD_FILES
from peer_sync.site import Site

LOG_FILE = "server.log"
MAX_LOG_BYTES = 4 << 20
LOGIN = re.compile(rb"^(\S{1,32}) (\S{1,64}) ([a-z0-9-]{1,64}):? logged in", re.MULTILINE)


@dataclass(frozen=True)
class Login:
    """When a site was last let in, and from which address."""

    time: datetime
    address: str


def last_logins(folder: Path) -> dict[str, Login]:
    """The last login of each site, from a site's access log and its older files. Raises OSError."""
    found: dict[str, Login] = {}
    for number in range(OLD_FILES, -1, -1):
        path = folder / (f"{LOG_FILE}.{number}" if number else LOG_FILE)
        if path.is_file():
            with path.open("rb") as file:
                found |= _logins(file.read(MAX_LOG_BYTES))
    return found


def last_login(site: Site, peer: str) -> Result:
    """What the log says about one peer."""
    if site.listen is None:
        return Result(UNKNOWN, "our outbox is not served by the built-in server, which would know")
    login, place = last_logins(site.folder).get(peer), site.member.address
    expected = f"a login in the last {site.stale_days} d"
    if login is None:
        return Result(WARNING, "never logged in at our server", expected, _please(site, peer, place))
    age = datetime.now(UTC) - login.time
    words = f"last login {ago(age)}, from {login.address}"
    if age > timedelta(days=site.stale_days):
        return Result(WARNING, words, expected, _please(site, peer, place))
    return Result(OK, words)


def _logins(data: bytes) -> dict[str, Login]:
    found = {}
    for time, address, peer in LOGIN.findall(data):
        try:
            found[peer.decode()] = Login(read_time(time.decode("ascii")), address.decode("ascii"))
        except ValueError:
            continue
    return found


def _please(site: Site, peer: str, place: str) -> str:
    host, port = site.listen or ("", 0)
    return (
        f"Please ask site {peer!r} to run nnunet-gml doctor. If it does not reach us: please allow incoming "
        f"TCP connections from there to {place} (our server listens on {host} port {port} of this machine). "
        "If nobody can dial in here (NAT, a laptop): `relay` in site.toml (docs/how-to/network.md)."
    )
