"""Commands as processes of their own, side by side, each with a log; one that fails stops no other.

Where the processes run is a `Launcher`'s matter: here, or wherever submitit puts them
(`nnunet_gml.simulation.launchers`).
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.5
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One command of one site.

    ``product`` exists once the command has done its work; if its name ends with ``.done`` it is a
    marker that we write ourselves after success.
    """

    site: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    log: Path
    product: Path

    def is_done(self) -> bool:
        """Whether an earlier run has done this job already."""
        return self.product.exists()

    def last_lines(self, count: int = 6) -> str:
        """The end of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    exit_code: int

    def reason(self) -> str:
        """The exit code in words: ``exit code 1``, ``killed by SIGKILL``."""
        if self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        return f"killed by {signal.Signals(-self.exit_code).name}"


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""


class Launcher(Protocol):
    """Where jobs run."""

    threads: int | None
    """CPU cores that each job has for itself; None: all share this machine."""

    def start(self, job: Job) -> Running:
        """Start a job; it writes its own log."""

    def stop(self, running: Sequence[Running]) -> None:
        """End jobs that still run, with their children."""


class Here:
    """Processes on this machine."""

    threads: int | None = None

    def start(self, job: Job) -> subprocess.Popen[bytes]:
        """See `Launcher`."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            log.flush()
            return subprocess.Popen(
                job.command,
                env={**os.environ, **job.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self, running: Sequence[Running]) -> None:
        """See `Launcher`: politely, then firmly."""
        processes = [each for each in running if isinstance(each, subprocess.Popen)]
        for process in processes:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()


def run_side_by_side(
    jobs: Sequence[Job],
    limit: int,
    watch: Callable[[], None],
    ended: Callable[[Outcome], None],
    launcher: Launcher | None = None,
) -> list[Outcome]:
    """Run the jobs, at most ``limit`` at once, and return the outcomes in the order they ended.

    Args:
        jobs: what to run; jobs whose product exists are left out.
        limit: so many processes at the same time.
        watch: called about twice a second.
        ended: called at once when a job has ended.
        launcher: where they run; None: here.
    """
    waiting = [job for job in jobs if not job.is_done()]
    _exit_when_terminated()
    launcher = launcher or Here()
    running: list[tuple[Job, Running]] = []
    outcomes: list[Outcome] = []
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                job = waiting.pop(0)
                running.append((job, launcher.start(job)))
            time.sleep(POLL_SECONDS)
            for outcome in _take_ended(running):
                outcomes.append(outcome)
                ended(outcome)
            watch()
    finally:  # also after Ctrl-C: no training goes on unwatched
        launcher.stop([process for _, process in running])
    return outcomes


def _exit_when_terminated() -> None:
    """Let SIGTERM end us by an exception, so that our processes are ended too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _take_ended(running: list[tuple[Job, Running]]) -> list[Outcome]:
    """How those ended that are over; they are no longer in ``running``."""
    codes = [(each, each[1].poll()) for each in running]
    running[:] = [each for each, code in codes if code is None]
    return [_outcome(job, code) for (job, _), code in codes if code is not None]


def _outcome(job: Job, exit_code: int) -> Outcome:
    if exit_code == 0 and job.product.suffix == ".done":
        job.product.touch()
    return Outcome(job, exit_code)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def resume_script(job: Job, extra: str = "--c") -> str:
    """A shell script that runs the job's command again, from its checkpoint, wherever it is called."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.variables.items())]
    command = shlex.join([part for part in job.command if part != extra] + [extra])
    return "\n".join(
        ["#!/bin/sh", "# Continues this site's training where it stopped.", *exports, f"exec {command}", ""]
    )
