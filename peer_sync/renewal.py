"""A federation.toml that is changed while a program runs: noticed, checked whole, taken or left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from peer_sync.errors import ConfigError
from peer_sync.federation import Federation, load_federation
from peer_sync.site import Site, check_site

SETTLE_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.1
Check = Callable[[Site, Site], None]


def no_objection(old: Site, new: Site) -> None:
    """Whatever the file has to say about others is taken."""


class Renewal:
    """Looks whether the federation file of a running program was changed; site.toml is not read again.

    A new content is read only when it has been the same for a second: files are copied and edited in pieces,
    and half a file may well name half of the sites. What cannot be taken is looked at again every time.

    Args:
        site: as the program began.
        check: raises `ConfigError` for what this program cannot take, given the site before and after.
    """

    def __init__(self, site: Site, check: Check = no_objection) -> None:
        self.site = site
        self._check = check
        self._seen, self._since = site.federation.digest, -SETTLE_SECONDS
        self._told = ""

    def look(self) -> Site | None:
        """The site with the new file, once; None while there is nothing new. Returns at once.

        Raises:
            ConfigError: it cannot be taken; the same is said once.
        """
        if self._digest() == self.site.federation.digest:
            self._told = ""
            return None
        if self.is_settling:
            return None
        try:
            return self._take()
        except ConfigError as error:
            if str(error) == self._told:
                return None
            self._told = str(error)
            raise ConfigError(
                f"the changed federation.toml is not taken, version {self.site.federation.version} goes on: "
                f"{error}",
                hint=error.hint,
            ) from error

    def settled(self) -> Site | None:
        """As `look`, but a change that is under way is waited for, some seconds at most."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (site := self.look()) is None and self.is_settling and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return site

    @property
    def is_settling(self) -> bool:
        """Whether the file was seen to change within the last second."""
        return time.monotonic() - self._since < SETTLE_SECONDS

    def _digest(self) -> str:
        """Of the content now, empty where it cannot be read; a new one has to settle."""
        try:
            digest = sha256(self.site.federation.path.read_bytes()).hexdigest()
        except OSError:
            digest = ""
        if digest != self._seen:
            self._seen, self._since = digest, time.monotonic()
        return digest

    def _take(self) -> Site | None:
        federation = load_federation(self.site.federation.path)
        if federation.digest != self._seen:
            return None
        new = successor(self.site, federation)
        self._check(self.site, new)
        self.site, self._told = new, ""
        return new


def successor(site: Site, federation: Federation) -> Site:
    """The site with another version of its federation file, checked like the first. Raises `ConfigError`."""
    old, path = site.federation, federation.path
    if federation.name != old.name:
        raise ConfigError(
            f"{path} is that of federation {federation.name!r}, expected {old.name!r}",
            hint=f"put the file of {old.name!r} back",
        )
    if federation.version < old.version:
        raise ConfigError(
            f"{path} has version {federation.version}, expected {old.version} or later",
            hint=f"an older file was put in its place: put version {old.version} back, or a newer one",
        )
    jump = site.jump
    if jump is not None and jump.peers is not None:
        known = {member.name for member in federation.members}
        jump = replace(jump, peers=tuple(peer for peer in jump.peers if peer in known))
    new = replace(site, federation=federation, jump=jump)
    check_site(new)
    return new


def news(old: Federation, new: Federation) -> str:
    """What a change comes to, in a sentence.

    The names are those of sites, which are small letters, digits and hyphens.
    """
    before, now = ({member.name: member for member in file.members} for file in (old, new))
    lists = {
        "without": sorted(before.keys() - now.keys()),
        "with": sorted(now.keys() - before.keys()),
        "changed:": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
    }
    told = [f"{word} {', '.join(names)}" for word, names in lists.items() if names]
    text = f"federation.toml was changed: version {old.version} before, version {new.version} from now on"
    return "; ".join([text, *told])
