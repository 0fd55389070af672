"""Sites that run as processes, seen from a test: order, wait, kill, and look at what is left."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import site_process
from state_kit import check_at_rest

import peer_sync
from peer_sync.site import Site

T = TypeVar("T")
Event = dict[str, Any]
PATIENCE_SECONDS = 60.0
SIZE_BYTES = 1 << 20
SCRIPT = Path(site_process.__file__)
PATHS = (Path(peer_sync.__file__).parent.parent, SCRIPT.parent.parent, SCRIPT.parent)


def wait_for(look: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """The first true answer of ``look``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"within {seconds:.0f} s there was no {what}")


def environment() -> dict[str, str]:
    """Where a process of ours finds the package and the kits."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}


def digest_of(site: str, round_: int, size_bytes: int = SIZE_BYTES) -> str:
    """SHA-256 of what a site offers in a round."""
    return hashlib.sha256(site_process.weights_of(site, round_, size_bytes)).hexdigest()


def kill_many(work: str, folder: Path, moments: int | str) -> int:
    """How many processes kill_process.py killed; everything between and after them was as it must be."""
    script = str(SCRIPT.with_name("kill_process.py"))
    ended = subprocess.run(
        [sys.executable, "-W", "error", script, work, str(folder), str(moments)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stderr == ""
    return int(ended.stdout)


def end(*sites: SiteProcess) -> None:
    """Let several trainings end at once."""
    for site in sites:
        site.process.stdin.close()
    for site in sites:
        site.end()


class SiteProcess:
    """One running site.

    Args:
        site: its settings.
        options: of site_process.py.
    """

    def __init__(self, site: Site, *options: str, size_bytes: int = SIZE_BYTES) -> None:
        self.site = site
        self.size_bytes = size_bytes
        self.events: list[Event] = []
        self._seen = 0
        self._errors = site.path.with_name(f"{site.name}.err")
        words = [sys.executable, "-W", "error", str(SCRIPT), str(site.path), "--bytes", str(size_bytes)]
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*words, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.server_pid = 0

    def wait_until_it_runs(self) -> None:
        """Until mailbox, courier and server are there."""
        self.server_pid = int(self.next("started")["server"])

    def exchange(self, round_: int, peer: str) -> None:
        """Offer and collect, in the background."""
        self._order(f"exchange {round_} {peer}")

    def offer(self, round_: int) -> int:
        """Offer now; returns the sequence."""
        event = self.try_to_offer(round_)
        assert "offered" in event, event
        return int(event["offered"])

    def try_to_offer(self, round_: int) -> Event:
        """Offer now; returns an event with ``offered`` or with ``failed``."""
        self._order(f"offer {round_}")
        return self.next("offered", "failed")

    def next(self, *kinds: str, **facts: object) -> Event:
        """The next event of one of these kinds, with these facts; the ones before it are passed over."""

        def look() -> Event | None:
            if self.process.poll() is not None:
                self._reader.join(PATIENCE_SECONDS)
            for number, event in enumerate(self.events[self._seen :], self._seen):
                if event.keys() & kinds and all(event[name] == fact for name, fact in facts.items()):
                    self._seen = number + 1
                    return event
            assert self.process.poll() is None, f"{self.site.name} ended: {self.errors()} {self.events}"
            return None

        try:
            return wait_for(look, f"{kinds} {facts} of {self.site.name}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it told {self.events[-5:]}") from None

    def accepted(self, round_: int, peer: str, peers_round: int | None = None) -> Event:
        """Wait until a peer's weights are accepted, and see that they are the peer's to the byte."""
        event = self.next("accepted", accepted=round_)
        assert event["sha256"] == digest_of(peer, event["round"], self.size_bytes)
        assert peers_round is None or event["round"] == peers_round, event
        return event

    def said(self) -> str:
        """Everything for the training log so far."""
        return "\n".join(event["say"] for event in list(self.events) if "say" in event)

    def errors(self) -> str:
        """Everything on standard error, of earlier processes of this site too."""
        return self._errors.read_text()

    def signal(self, number: signal.Signals, server: bool = False) -> None:
        """Send a signal to the site, or to its server."""
        os.kill(self.server_pid if server else self.process.pid, number)

    def kill(self) -> None:
        """A power cut: site and server are gone at once; it may be called again."""
        if self.process.poll() is None:
            if self.server_pid:
                with suppress(ProcessLookupError):
                    self.signal(signal.SIGKILL, server=True)
            self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        self._close()

    def end(self, warning: str = "", broken_lines: int = 0) -> None:
        """Let the training end in time: without an error, and with nothing half in its folders.

        Args:
            warning: the only sentence allowed on standard error.
            broken_lines: so many lines of the ledger may be.
        """
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.errors()
        self._reader.join(PATIENCE_SECONDS)
        assert self.events[-1] == {"ended": True}
        assert [line for line in self.errors().splitlines() if not warning or warning not in line] == []
        check_at_rest(self.site, broken_lines)
        self._close()

    def _order(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                stream.close()
