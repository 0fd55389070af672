"""Real courier processes on this machine, one for each site, that exchange files round by round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import measuring
from speed_line import Line, line_to

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "tests"))  # the builders of sites live there

from courier_kit import build_sites  # noqa: E402

from peer_sync.entries import collected_bytes, read_entries  # noqa: E402
from peer_sync.site import Site, load_site  # noqa: E402

WORKER = Path(__file__).with_name("speed_courier_worker.py")
END_SECONDS = 60


def served_sites(folder: Path, names: Sequence[str]) -> dict[str, Site]:
    """Sites that know each other, each with a server of its own on another port, not started."""
    return build_sites(folder, tuple(names), served=True)


@contextmanager
def led_through_lines(
    sites: Mapping[str, Site], names: Sequence[str], **line: float
) -> Iterator[tuple[dict[str, Site], dict[str, Line]]]:
    """The same sites, where peers reach each of ``names`` through a line of its own; see `line_to`."""
    federation = next(iter(sites.values())).federation.path
    text, lines = federation.read_text(), {}
    with ExitStack() as stack:
        for name in names:
            port = port_of(sites[name])
            lines[name] = stack.enter_context(line_to(port, **line))
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{lines[name].port}")
        federation.write_text(text)
        yield {name: load_site(site.path) for name, site in sites.items()}, lines


def port_of(site: Site) -> int:
    """Where the site's server listens."""
    assert site.listen is not None
    return site.listen[1]


@dataclass
class Courier:
    """A process with one site's courier.

    Attributes:
        site: whose.
        process: it, the parent of the site's server.
    """

    site: Site
    process: subprocess.Popen[str]

    def tell(self, text: str) -> None:
        """Begin a round."""
        stream = cast(IO[str], self.process.stdin)
        stream.write(f"{text}\n")
        stream.flush()

    def answer(self) -> dict[str, Any]:
        """What it said at the end of a round. Raises RuntimeError when it ended instead."""
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"the courier of site {self.site.name} ended with {self.process.wait()}")
        return dict(json.loads(line))

    def cpu_seconds(self) -> float:
        """Of courier and server so far."""
        return measuring.cpu_seconds(self.process.pid)

    def collected_bytes(self) -> int:
        """All that the site's ledger says it has fetched."""
        return collected_bytes(read_entries(self.site.folder / "ledger.jsonl"))

    def end(self) -> None:
        """Let it stop its server, and end."""
        cast(IO[str], self.process.stdin).close()
        cast(IO[str], self.process.stdout).close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def couriers(
    sites: Mapping[str, Site], payload: Path, dtype: str, wait_seconds: float
) -> Iterator[list[Courier]]:
    """A courier process for each site, started one after the other, ready for round 1.

    Args:
        sites: with servers of their own.
        payload: the file that every site offers in every round.
        dtype: the type that its manifest states.
        wait_seconds: for a peer's offer in each round.
    """
    begun: list[Courier] = []
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    try:
        for site in sites.values():
            settings = {"site": str(site.path), "payload": str(payload), "dtype": dtype}
            words = json.dumps({**settings, "wait_seconds": wait_seconds})
            process = subprocess.Popen(
                [sys.executable, str(WORKER), words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            begun.append(Courier(site, process))
            begun[-1].answer()
        yield begun
    finally:
        for courier in begun:
            courier.end()


def run_round(crowd: Sequence[Courier], number: int) -> list[dict[str, Any]]:
    """Let all begin a round at once; their answers, in the same order."""
    for courier in crowd:
        courier.tell(str(number))
    return [courier.answer() for courier in crowd]
