"""The ledger's facts for people: a table in a wide terminal, one paragraph per peer in a narrow one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from nnunet_gml.commands.status import is_silent, is_stale
from nnunet_gml.printable import printable
from peer_sync.ages import age_words, ago
from peer_sync.entries import Problem
from peer_sync.site import Site
from peer_sync.status import OwnStatus, PeerStatus, Status

TABLE_WIDTH = 78
SHOWN_FORMER = 5
NONE = "-"
PLACE = re.compile(r"peer '[a-z0-9-]*', round [0-9]+, (rule )?")
HEADS = ("last heard", "round", "offer", "accepted", "refused", "failed", "received", "trust")


def show(console: Console, site: Site, status: Status, now: datetime, max_age: timedelta | None) -> None:
    """Print everything; a limit marks the peers that were silent for longer."""
    title = f"site {site.name}, federation {site.federation.name}, {now:%Y-%m-%d %H:%M} UTC"
    console.print(Text(title, "bold"))
    console.print(Text(_own_line(status.own, now)))
    if console.width >= TABLE_WIDTH:
        _print_table(console, site, status, now, max_age)
    else:
        _print_blocks(console, site, status, now, max_age)
    for sentence in _sentences(site, status, now, max_age):
        console.print(sentence)


def _own_line(own: OwnStatus, now: datetime) -> str:
    if own.last_offer is None:
        line = "our own offers: none yet"
    else:
        line = (
            f"our own offers: {own.offers}, the last {ago(now - own.last_offer)} (number {own.sequence}), "
            f"{decimal(own.offered_bytes)} in all"
        )
    line += f", {own.failed} failed" if own.failed else ""
    line += f"; copied to the relay {ago(now - own.last_publish)}" if own.last_publish else ""
    return line


def _print_table(
    console: Console, site: Site, status: Status, now: datetime, max_age: timedelta | None
) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("peer", overflow="fold")
    for head in HEADS:
        is_text = head == "last heard"
        table.add_column(head, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for peer in status.peers.values():
        table.add_row(_name(peer, site, now, max_age), *_cells(peer, now))
    console.print()
    console.print(table)
    console.print()


def _print_blocks(
    console: Console, site: Site, status: Status, now: datetime, max_age: timedelta | None
) -> None:
    for peer in status.peers.values():
        console.print()
        console.print(_name(peer, site, now, max_age))
        console.print("; ".join(map(" ".join, zip(HEADS, _cells(peer, now), strict=True))))
    console.print()


def _cells(peer: PeerStatus, now: datetime) -> list[str]:
    """One cell for each of `HEADS`."""
    heard = f"{ago(now - peer.last_seen)}, {peer.last_verdict}" if peer.last_seen else "never"
    numbers = (peer.round, peer.sequence)
    return [
        heard,
        *(NONE if number is None else str(number) for number in numbers),
        *(str(count) for count in (peer.accepted, peer.refused, peer.failed)),
        decimal(peer.received_bytes),
        NONE if peer.trust is None else f"{peer.trust:.2f}",
    ]


def _name(peer: PeerStatus, site: Site, now: datetime, max_age: timedelta | None) -> Text:
    """The peer's name and what is wrong with it, readable without colours too."""
    marks = [(is_silent(peer.last_seen, now, max_age), "silent"), (is_stale(peer, site, now), "stale")]
    words = [word for holds, word in marks if holds]
    return Text(", ".join([peer.name, *words]), "yellow" if words or not peer.last_seen else "green")


def _sentences(site: Site, status: Status, now: datetime, max_age: timedelta | None) -> Iterator[Text]:
    """What needs a person, one sentence each."""
    for peer in status.peers.values():
        if peer.offered and is_stale(peer, site, now):
            age = age_words(now - peer.offered)
            yield _marked("stale", f"the newest offer of {peer.name} is {age} old, limit {site.stale_days} d")
        if peer.last_seen and is_silent(peer.last_seen, now, max_age):
            yield _marked("silent", f"nothing came from {peer.name} for {age_words(now - peer.last_seen)}")
        if peer.problem:
            yield _marked("problem", f"{peer.name}, {_problem(peer.problem, now)}")
    if status.own.problem:
        yield _marked("problem", f"our own offers, {_problem(status.own.problem, now)}")
    if status.former:
        names = ", ".join(printable(name) for name, _ in status.former.most_common(SHOWN_FORMER))
        yield _marked(
            "note", f"{status.former.total()} lines are about sites outside the federation: {names}"
        )
    if status.broken:
        yield _marked("note", f"{status.broken} of {status.lines} lines of the ledger are broken or cut")


def _problem(problem: Problem, now: datetime) -> str:
    message = PLACE.sub("", problem.message)
    rule = "" if not problem.rule or message.startswith(problem.rule) else f"{problem.rule}: "
    return printable(f"{ago(now - problem.time)}: {rule}{message}")


def _marked(mark: str, text: str) -> Text:
    return Text.assemble((f"{mark}: ", "yellow"), text)
