"""Commands as processes of their own, side by side, each with a log; one that fails stops no other."""

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


def run_side_by_side(
    jobs: Sequence[Job], limit: int, watch: Callable[[], None], ended: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run the jobs, at most ``limit`` at once, and return the outcomes in the order they ended.

    Args:
        jobs: what to run; jobs whose product exists are left out.
        limit: so many processes at the same time.
        watch: called about twice a second.
        ended: called at once when a job has ended.
    """
    waiting = [job for job in jobs if not job.is_done()]
    _exit_when_terminated()
    running: list[tuple[Job, subprocess.Popen[bytes]]] = []
    outcomes: list[Outcome] = []
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                job = waiting.pop(0)
                running.append((job, _start(job)))
            time.sleep(POLL_SECONDS)
            for job, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((job, process))
                outcomes.append(_outcome(job, process.returncode))
                ended(outcomes[-1])
            watch()
    finally:  # also after Ctrl-C: no training goes on unwatched
        _stop([process for _, process in running])
    return outcomes


def _exit_when_terminated() -> None:
    """Let SIGTERM end us by an exception, so that our processes are ended too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _start(job: Job) -> subprocess.Popen[bytes]:
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


def _outcome(job: Job, exit_code: int) -> Outcome:
    if exit_code == 0 and job.product.suffix == ".done":
        job.product.touch()
    return Outcome(job, exit_code)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what is still running, with its own children: politely, then firmly."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()


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
