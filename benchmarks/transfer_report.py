"""docs/results/transfer.md: tables, targets beside what was measured, and the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from measuring import Figures
from transfer_clients import LABELS, OURS, OURS_SSH, REFERENCE, SHIPPED
from transfer_scenes import Crowd, Row, Sizes

from nnunet_gml.markdown import markdown_table

MEBIBYTE = 1 << 20
ABOUT = """\
# Transfer: how fast weights travel

{size} MiB of random bytes over loopback, from and to a private `sshd` of OpenSSH, in memory where the
machine has a folder for that. Every client is a process of its own whose connection stands before the clock
starts; the clock runs from the order to the client's answer, and every copy is compared with what was sent.
{runs} runs after a warm-up, each in a random order of its own; medians, and the slowest and the fastest run
in brackets. MB/s are 1,000,000 bytes a second. Ratios are ratios of medians within this run of the benchmark:
trust them, not the MB/s.

## Targets
"""
LOOPBACK = """\
## Loopback

CPU seconds are the client's for one transfer, its child processes included; so is memory growth: its
high-water mark over all runs above the connected, idle client.
"""
FAR = """\
## Over a long line

{size} MiB pulled through a proxy that holds every byte back for 40 ms each way and lets 500 Mbit/s through.
"""
SERVER = """\
## The embedded server

Clients pull {size} MiB each at the same time; MB/s of all together. The server is a process of its own, as in
a training; it grew by {grown:.0f} MiB. Clients and server share the machine's cores.
"""
LARGE = """\
## Large files

Once each way, a fresh client for each row.
"""


@dataclass(frozen=True)
class Results:
    """What the four scenes measured."""

    sizes: Sizes
    loopback: Sequence[Row]
    far: Sequence[Row]
    crowds: Sequence[Crowd]
    server_grown_mib: float
    large: Sequence[Row]


@dataclass(frozen=True)
class Target:
    """A number that was promised, and what it came to; None where it could not be measured."""

    text: str
    expected: float
    found: float | None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Met, missed, or not measured."""
        if self.found is None:
            return "not measured"
        is_met = self.found <= self.expected if self.at_most else self.found >= self.expected
        return "met" if is_met else "**missed**"


def ratio(rows: Sequence[Row], kind: str, verb: str, to: str) -> float | None:
    """Median MB/s of one client over that of another; None when one of them was not there."""
    medians = {row.kind: row.rates.median for row in rows if row.verb == verb}
    return medians[kind] / medians[to] if {kind, to} <= set(medians) else None


def crowd_ratio(crowds: Sequence[Crowd], clients: int) -> float:
    """MB/s of clients of the embedded server over as many of OpenSSH's."""
    medians = {crowd.kind: crowd.rates.median for crowd in crowds if crowd.clients == clients}
    return medians[OURS] / medians[REFERENCE]


def targets(results: Results) -> list[Target]:
    """Every promised number."""
    found = []
    for verb in ("put", "get"):
        for kind, to, expected in ((OURS, REFERENCE, 0.7), (OURS, SHIPPED, 2.0), (OURS_SSH, REFERENCE, 1.2)):
            text = f"{verb}: {LABELS[kind]} over {LABELS[to]}"
            found.append(Target(text, expected, ratio(results.loopback, kind, verb, to)))
    far = ratio(results.far, OURS, "get", REFERENCE)
    found.append(Target(f"get at 80 ms: {LABELS[OURS]} over {LABELS[REFERENCE]}", 2.0, far))
    text = f"get: ours from our embedded server over {LABELS[REFERENCE]} from `sshd`, one client"
    found.append(Target(text, 0.5, crowd_ratio(results.crowds, 1)))
    rows = [*results.loopback, *results.far, *results.large]
    grown = max(row.grown_mib for row in rows if row.kind in (OURS, OURS_SSH))
    found.append(Target("memory growth of our client in any transfer, MiB", 32, grown, at_most=True))
    return found


def report(results: Results, command: str) -> str:
    """The whole page."""
    size, far_size = (n // MEBIBYTE for n in (results.sizes.loopback_bytes, results.sizes.far_bytes))
    parts = [
        ABOUT.format(size=size, runs=results.sizes.runs),
        markdown_table([("what", "target", "measured", ""), *map(target_cells, targets(results))]),
        LOOPBACK,
        client_table(results.loopback),
        FAR.format(size=far_size),
        client_table(results.far),
        SERVER.format(size=size, grown=results.server_grown_mib),
        crowd_table(results.crowds),
        LARGE,
        large_table(results.large),
        machine(),
        f"Made by `{command}`.\n",
    ]
    return "\n".join(parts)


def target_cells(target: Target) -> tuple[str, ...]:
    """A row of the first table."""
    sign = "≤" if target.at_most else "≥"
    measured = "-" if target.found is None else f"{target.found:.2f}"
    return target.text, f"{sign} {target.expected:g}", measured, target.verdict


def client_table(rows: Sequence[Row]) -> str:
    """MB/s, both ratios, CPU seconds and memory of every client."""
    head = ("client", "", "MB/s", "to OpenSSH", "to shipped", "CPU s", "growth, MiB")
    cells = (
        (
            LABELS[row.kind],
            row.verb,
            spread(row.rates),
            decimal(ratio(rows, row.kind, row.verb, REFERENCE)),
            decimal(ratio(rows, row.kind, row.verb, SHIPPED)),
            f"{row.cpu_seconds:.2f}",
            f"{row.grown_mib:.0f}",
        )
        for row in rows
    )
    return markdown_table([head, *cells])


def crowd_table(crowds: Sequence[Crowd]) -> str:
    """MB/s of several clients, at our server and at OpenSSH's."""
    cells = (
        (
            str(clients),
            *(
                spread(crowd.rates)
                for kind in (OURS, REFERENCE)
                for crowd in crowds
                if (crowd.kind, crowd.clients) == (kind, clients)
            ),
            decimal(crowd_ratio(crowds, clients)),
        )
        for clients in sorted({crowd.clients for crowd in crowds})
    )
    return markdown_table(
        [("clients", "ours from the embedded server", "OpenSSH `sftp` from `sshd`", "ratio"), *cells]
    )


def large_table(rows: Sequence[Row]) -> str:
    """Size, MB/s, memory and rekeys."""
    cells = (
        (
            f"{row.size_bytes / 1e6:.0f} MB",
            LABELS[row.kind],
            row.verb,
            f"{row.rates.median:.0f}",
            f"{row.grown_mib:.0f}",
            "ssh's own affair" if row.costs[0].rekeys is None else str(row.costs[0].rekeys),
        )
        for row in rows
    )
    return markdown_table([("file", "client", "", "MB/s", "growth, MiB", "rekeys"), *cells])


def spread(found: Figures) -> str:
    """Median and extremes.

    Example:
        >>> spread(Figures(100.4, 90, 120))
        '100 [90-120]'
    """
    return f"{found.median:.0f} [{found.least:.0f}-{found.most:.0f}]"


def decimal(value: float | None) -> str:
    """Two digits, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def machine() -> str:
    """Facts about the machine that matter here; nothing that names it."""
    openssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
    versions = ", ".join(f"{name} {version(name)}" for name in ("paramiko", "cryptography"))
    return (
        f"{os.cpu_count()} CPU cores ({processor()}), {platform.system()}; "
        f"{openssh.split(',')[0].split()[0]}, {versions}, Python {platform.python_version()}.\n"
    )


def processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"model name\s*: (.*)", text)
    return found.group(1).strip() if found else platform.machine()
