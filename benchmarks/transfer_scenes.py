"""The four scenes of the transfer benchmark: loopback, a long line, a crowd of clients, large files."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import measuring
from sshd_kit import Sshd
from transfer_clients import OURS, OURS_SSH, REFERENCE, SHIPPED, Client, Cost, Place
from transfer_servers import NAME, embedded_server, long_line, random_file

Step = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """How much is moved, and how often."""

    loopback_bytes: int = 128 << 20
    far_bytes: int = 64 << 20
    large_bytes: tuple[int, ...] = (400_000_000, 2_000_000_000)
    crowds: tuple[int, ...] = (1, 4, 8)
    runs: int = 7


QUICK = Sizes(4 << 20, 1 << 20, (8_000_000,), (1, 2), runs=2)


@dataclass
class Row:
    """All runs of one client in one direction."""

    kind: str
    verb: str
    size_bytes: int
    costs: list[Cost] = field(default_factory=list)
    grown_mib: float = 0.0

    @property
    def rates(self) -> measuring.Figures:
        """MB/s."""
        return measuring.figures([measuring.rate(self.size_bytes, cost.seconds) for cost in self.costs])

    @property
    def cpu_seconds(self) -> float:
        """Median of the client's CPU seconds for one transfer."""
        return measuring.figures([cost.cpu_seconds for cost in self.costs]).median


@dataclass
class Crowd:
    """All runs of some clients at once; together they are one run."""

    kind: str
    clients: int
    rates_mb: list[float] = field(default_factory=list)

    @property
    def rates(self) -> measuring.Figures:
        """MB/s of all clients together."""
        return measuring.figures(self.rates_mb)


class Bench:
    """The folders, the server and the clients of one benchmark.

    Args:
        folder: scratch, best in memory.
        sshd: a running OpenSSH server.
        sizes: how much, how often.
        step: called with a sentence after each transfer.
    """

    def __init__(self, folder: Path, sshd: Sshd, sizes: Sizes, step: Step) -> None:
        self.sizes = sizes
        self.step = step
        self.local, self.remote = folder / "local", folder / "remote"
        for made in (self.local, self.remote):
            made.mkdir()
        self.place = Place(sshd.port, sshd.user, sshd.host_key, str(sshd.login_key), str(self.remote))
        self.kinds = [REFERENCE, "sftp-gcm", SHIPPED, OURS, *([OURS_SSH] if shutil.which("ssh") else [])]

    def steps(self) -> int:
        """How often ``step`` will be called."""
        sizes, ours = self.sizes, sum(kind in (OURS, OURS_SSH) for kind in self.kinds)
        interleaved = 2 * len(self.kinds) + len(self.kinds) - 1 + 2 * len(sizes.crowds)
        return interleaved * (sizes.runs + 1) + 2 * ours * len(sizes.large_bytes)

    def loopback(self) -> list[Row]:
        """Every client, both ways, in random order."""
        size = self.sizes.loopback_bytes
        rows = [Row(kind, verb, size) for verb in ("put", "get") for kind in self.kinds]
        return self._runs(rows, self.place, self.sizes.runs)

    def far(self) -> list[Row]:
        """Pulls over a line of 80 ms there and back."""
        kinds = [kind for kind in self.kinds if kind != "sftp-gcm"]
        with long_line(self.place) as place:
            return self._runs(
                [Row(kind, "get", self.sizes.far_bytes) for kind in kinds], place, self.sizes.runs
            )

    def large(self) -> list[Row]:
        """Our own carriers once each way with large files."""
        kinds = [kind for kind in self.kinds if kind in (OURS, OURS_SSH)]
        rows = []
        for size in self.sizes.large_bytes:
            wanted = [Row(kind, verb, size) for kind in kinds for verb in ("put", "get")]
            rows += self._runs(wanted, self.place, 1, warm_up=False)
        return rows

    def crowds(self) -> tuple[list[Crowd], float]:
        """Pulls by several clients at once, and how many MiB the embedded server's process grew."""
        folder, most = self.local.parent / "sites", max(self.sizes.crowds)
        with ExitStack() as stack:
            served = embedded_server(folder, most, self.sizes.loopback_bytes)
            pid, places, file = stack.enter_context(served)
            os.link(file, self.remote / NAME)
            baseline = measuring.memory_mib(pid, "VmRSS")
            clients = {
                kind: [stack.enter_context(closing(Client(kind, place, self.local))) for place in where]
                for kind, where in ((OURS, places), (REFERENCE, [self.place] * most))
            }
            crowds = [Crowd(kind, count) for count in self.sizes.crowds for kind in clients]
            for number, crowd in shuffled(crowds, self.sizes.runs):
                speed = self._pull_at_once(clients[crowd.kind][: crowd.clients], file)
                if number:
                    crowd.rates_mb.append(speed)
                self.step(f"{crowd.clients} at once")
            grown = measuring.memory_mib(pid, "VmHWM") - baseline
        (self.remote / NAME).unlink()
        return crowds, grown

    def _pull_at_once(self, clients: Sequence[Client], source: Path) -> float:
        """MB/s of all together; the content is compared."""
        targets = [self.local / f"target-{number}" for number in range(len(clients))]
        started = time.monotonic()
        for client, target in zip(clients, targets, strict=True):
            client.start("get", target, NAME)
        for client in clients:
            client.finish()
        seconds = time.monotonic() - started
        for target in targets:
            check(source, target)
            target.unlink()
        return measuring.rate(len(clients) * self.sizes.loopback_bytes, seconds)

    def _runs(self, rows: list[Row], place: Place, runs: int, warm_up: bool = True) -> list[Row]:
        """Fill the rows: a warm-up, then all of them in a new random order in every run."""
        source = self.local / "source"
        random_file(source, rows[0].size_bytes)
        with ExitStack() as stack:
            clients = [stack.enter_context(closing(Client(row.kind, place, self.local))) for row in rows]
            for number, index in shuffled(range(len(rows)), runs, warm_up):
                row, client = rows[index], clients[index]
                cost = self._move(client, row.verb, source)
                if number:
                    row.costs.append(cost)
                row.grown_mib = max(row.grown_mib, client.grown_mib())
                self.step(f"{row.verb} {row.kind}")
        source.unlink()
        return rows

    def _move(self, client: Client, verb: str, source: Path) -> Cost:
        """One transfer of ``source``; the content is compared, and the copy removed."""
        remote, local = self.remote / NAME, self.local / "target"
        if verb == "put":
            cost = client.move(verb, source, NAME)
            check(source, remote)
        else:
            os.link(source, remote)
            cost = client.move(verb, local, NAME)
            check(source, local)
            local.unlink()
        remote.unlink()
        return cost


def shuffled(items: Sequence[T], runs: int, warm_up: bool = True) -> Iterator[tuple[int, T]]:
    """Run number and item: run 0 is the warm-up; each run has an order of its own."""
    for number in range(0 if warm_up else 1, runs + 1):
        for item in secrets.SystemRandom().sample(items, len(items)):
            yield number, item


def check(source: Path, target: Path) -> None:
    """Refuse to go on with a wrong copy. Raises RuntimeError."""
    if not measuring.same_content(source, target):
        raise RuntimeError(f"{target.name} is not what was sent")
