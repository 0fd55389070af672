"""The doctor's findings for people: what was looked at, then what to do, in sentences to pass on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer_sync.doctor.findings import FAILED, INCOMING, OK, SELF, SKIPPED, UNKNOWN, WARNING, Finding
from peer_sync.routes import jump_to
from peer_sync.site import Site

MARKS = {
    OK: ("ok", "green"),
    WARNING: ("warning", "yellow"),
    FAILED: ("FAILED", "bold red"),
    SKIPPED: ("skipped", "dim"),
    UNKNOWN: ("unknown", "dim"),
}
CHECK_WIDTH = 13


@contextmanager
def waiting(console: Console, site: Site, peers: Sequence[str] | None) -> Iterator[Callable[[str], None]]:
    """Show whose checks are still running, on a terminal; yields what is told of each that has ended."""
    open_names = [site.name, *(peers if peers is not None else site.federation.peers_of(site.name))]

    def words() -> str:
        return f"checking {', '.join(open_names)} ..."

    with console.status(words()) as status:

        def tell(name: str) -> None:
            open_names.remove(name)
            status.update(words())

        yield tell


def show(console: Console, site: Site, findings: Sequence[Finding]) -> None:
    """Print a section for each site, then the advice."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    console.print(Text(f"site {site.name}, federation {site.federation.name}, {now}", "bold"))
    for (peer, direction), group in groupby(findings, lambda finding: (finding.peer, finding.direction)):
        console.print()
        console.print(Text(_title(site, peer, direction), "bold"))
        console.print(table(list(group)))
    print_advice(console, [finding for finding in findings if finding.advice])
    console.print()
    console.print(summary(findings))


def _title(site: Site, peer: str, direction: str) -> str:
    if direction == SELF:
        return f"{peer}, this site"
    if direction == INCOMING:
        return f"{peer} to us"
    jump = jump_to(site, peer)
    way = f", by jump host {jump.address}" if jump else ""
    way += ", by the system's ssh" if site.carrier == "ssh" else ""
    return f"us to {peer}, {site.federation.member(peer).address}{way}"


def table(findings: Sequence[Finding]) -> Table:
    """A row for each check; those that were skipped for one reason share a row."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=max(len(mark) for mark, _ in MARKS.values()), no_wrap=True)
    table.add_column(width=CHECK_WIDTH, overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        if finding.verdict != SKIPPED:
            table.add_row(_mark(finding), finding.check, Text(_found(finding)))
    reasons = dict.fromkeys(finding.found for finding in findings if finding.verdict == SKIPPED)
    for reason in reasons:
        names = ", ".join(finding.check for finding in findings if finding.found == reason)
        table.add_row(Text(*MARKS[SKIPPED]), "", Text(f"{names}: {reason}"))
    return table


def _found(finding: Finding) -> str:
    if finding.verdict in (WARNING, FAILED) and finding.expected:
        return f"{finding.found} (expected {finding.expected})"
    return finding.found


def _mark(finding: Finding) -> Text:
    return Text(*MARKS[finding.verdict])


def print_advice(console: Console, findings: Sequence[Finding]) -> None:
    """Print what to do, the failures first."""
    for finding in sorted(findings, key=lambda finding: finding.verdict != FAILED):
        mark, style = MARKS[finding.verdict]
        console.print()
        console.print(Text(f"{mark}: {finding.peer}, {finding.check}", style))
        console.print(Text(finding.advice))


def summary(findings: Sequence[Finding]) -> Text:
    """How many of each verdict, in the colour of the worst."""
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in MARKS}
    worst = FAILED if counts[FAILED] else WARNING if counts[WARNING] else OK
    told = ", ".join(f"{count} {MARKS[verdict][0]}" for verdict, count in counts.items() if count)
    return Text(told, MARKS[worst][1])
