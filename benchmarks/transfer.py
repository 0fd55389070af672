#!/usr/bin/env python3
"""`make bench-transfer`: our SFTP client and server beside OpenSSH and paramiko as shipped.

Writes docs/results/transfer.md. Needs `sshd` and `sftp` of OpenSSH, and nothing else to do for the machine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "tests"))  # the private sshd and the builders of sites live there

from sshd_kit import SSHD, running_sshd  # noqa: E402
from transfer_report import Results, report  # noqa: E402
from transfer_scenes import QUICK, Bench, Sizes  # noqa: E402

OUT = REPOSITORY / "docs" / "results" / "transfer.md"
MEMORY = Path("/dev/shm")  # noqa: S108


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: prints the page, writes nothing")
    arguments = parser.parse_args()
    if SSHD is None:
        sys.stderr.write("transfer: error: sshd is not installed, expected OpenSSH's\n")
        return 2
    sizes = QUICK if arguments.quick else Sizes()
    page = report(measure(sizes), "make bench-transfer")
    if arguments.quick:
        sys.stdout.write(page)
    else:
        OUT.write_text(page)
    return 0


def measure(sizes: Sizes) -> Results:
    """Run the four scenes, in memory where there is room."""
    needed = 2 * max(*sizes.large_bytes, sizes.loopback_bytes * (1 + max(sizes.crowds)))
    where = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > needed else None
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="transfer-", dir=where) as folder,
        running_sshd(Path(folder) / "sshd") as sshd,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("", total=None)

        def step(text: str) -> None:
            progress.update(task, advance=1, description=text)

        bench = Bench(Path(folder), sshd, sizes, step)
        progress.update(task, total=bench.steps())
        loopback, far = bench.loopback(), bench.far()
        crowds, grown = bench.crowds()
        return Results(sizes, loopback, far, crowds, grown, bench.large())


if __name__ == "__main__":
    sys.exit(main())
