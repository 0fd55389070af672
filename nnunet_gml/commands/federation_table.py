"""federation.toml for people: who takes part, and what to read out over the telephone."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer_sync.federation import Federation, Member
from peer_sync.identity import fingerprint

GROUP, GROUPS_IN_LINE = 4, 8


def show(console: Console, federation: Federation) -> None:
    """Print the whole file."""
    console.print(Text(f"federation {federation.name}, version {federation.version}", "bold"))
    console.print()
    console.print(_table(federation))
    console.print()
    console.print(Text(f"plans digest: {federation.plans_digest or 'not agreed on yet'}"))
    classes = (
        "every site numbers its labels alike" if federation.classes is None else ", ".join(federation.classes)
    )
    console.print(Text(f"classes: {classes}"))
    console.print()
    console.print("digest of the file, to compare with every site by telephone:")
    for line in groups(federation.digest):
        console.print(Text(line, "bold"))


def groups(digest: str) -> list[str]:
    """Hex digits in groups that can be read out, some to a line."""
    fours = [digest[start : start + GROUP] for start in range(0, len(digest), GROUP)]
    lines = (fours[start : start + GROUPS_IN_LINE] for start in range(0, len(fours), GROUPS_IN_LINE))
    return ["  " + " ".join(line) for line in lines]


def _table(federation: Federation) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("site", overflow="fold")
    table.add_column("address, keys, classes that it contours, contact", overflow="fold")
    for number, member in enumerate(federation.members, 1):
        is_last = number == len(federation.members)
        table.add_row(Text(member.name), Text("\n".join(_facts(member))), end_section=not is_last)
    return table


def _facts(member: Member) -> Iterator[str]:
    yield member.address
    yield f"key  {_short(member.public_key)}"
    if member.host_key:
        yield f"host {_short(member.host_key)}"
    yield "every class" if member.labelled is None else ", ".join(member.labelled) or "no class"
    if member.contact:
        yield member.contact


def _short(line: str) -> str:
    """A fingerprint as ssh-keygen -l prints it; the usual type of key is left out."""
    return fingerprint(line).removeprefix("ssh-ed25519 ")
