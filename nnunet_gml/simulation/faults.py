"""What goes wrong in a simulation, on purpose: at which site, and in which rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from peer_sync.errors import ConfigError

KINDS = {
    "away": "courier and server of the site are stopped; nothing goes out or comes in",
    "garbage": "bytes of what it offers are changed after signing",
    "noise": "it offers random numbers in place of its weights, rightly signed",
}
FORM = re.compile(r"(?P<site>[^=]+)=(?P<kind>[a-z]+):(?P<first>[1-9]\d*)(?:-(?P<last>[1-9]\d*))?")


@dataclass(frozen=True)
class Fault:
    """One fault of one site.

    Attributes:
        site: where.
        kind: one of `KINDS`.
        first: the first round that it strikes, from 1.
        last: the last one; None: it does not end.
    """

    site: str
    kind: str
    first: int
    last: int | None = None

    def strikes(self, round_: int) -> bool:
        """Whether it is there in a round."""
        return self.first <= round_ and (self.last is None or round_ <= self.last)


def parse_faults(entries: Sequence[str]) -> list[Fault]:
    """The faults, from ``SITE=KIND:FIRST`` (to the end) or ``SITE=KIND:FIRST-LAST``.

    >>> parse_faults(["east=away:4-9"])
    [Fault(site='east', kind='away', first=4, last=9)]

    Raises:
        ConfigError: an entry is not like that.
    """
    faults = []
    for entry in entries:
        found = FORM.fullmatch(entry)
        first, last = (found["first"], found["last"]) if found else ("", None)
        if found is None or found["kind"] not in KINDS or int(last or first) < int(first):
            raise ConfigError(
                f"{entry!r} is not SITE=KIND:FIRST-LAST",
                f"KIND is one of {', '.join(KINDS)}; rounds count from 1; without LAST it does not end",
            )
        faults.append(Fault(found["site"], found["kind"], int(first), int(last) if last else None))
    return faults


def check_faults(entries: Sequence[str], sites: Sequence[str], by_folder: bool) -> None:
    """Make sure that the faults can be done.

    Raises:
        ConfigError: one is at a site that is not there, or needs servers where there are none.
    """
    for fault in parse_faults(entries):
        if fault.site not in sites:
            raise ConfigError(f"there is no site {fault.site}", f"the sites are {', '.join(sites)}")
        if by_folder and fault.kind == "away":
            raise ConfigError(
                "a site cannot be away where sites read each other's folder",
                "leave out --launcher, so that each site has a server of its own",
            )
