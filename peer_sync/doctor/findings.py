"""What a check says, and how checks are run: in order, each with an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

OK, WARNING, FAILED, SKIPPED, UNKNOWN = "ok", "warning", "failed", "skipped", "unknown"
VERDICTS = (OK, WARNING, FAILED, SKIPPED, UNKNOWN)
SELF, OUTGOING, INCOMING = "self", "outgoing", "incoming"
DIRECTIONS = (SELF, OUTGOING, INCOMING)
CHECK_SECONDS = 20.0


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        verdict: one of `VERDICTS`.
        found: a few words without a full stop.
        expected: what would have been right; empty where `found` says enough.
        advice: whole sentences to send to those who can help; empty when nothing is wrong.
        ends: whether the checks after this one make no sense any more.
    """

    verdict: str
    found: str
    expected: str = ""
    advice: str = ""
    ends: bool = False


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        peer: the site it is about.
        direction: ``self``, ``outgoing`` (we reach the peer) or ``incoming`` (the peer reaches us).
        check: what was looked at.
        verdict, found, expected, advice: see `Result`.
    """

    peer: str
    direction: str
    check: str
    verdict: str
    found: str
    expected: str
    advice: str


@dataclass(frozen=True)
class Check:
    """One thing to look at; `work` may take its time, `cut` ends it from another thread."""

    name: str
    work: Callable[[], Result]
    cut: Callable[[], None] = field(default=lambda: None)


def run_checks(
    peer: str, direction: str, checks: Sequence[Check], seconds: float = CHECK_SECONDS
) -> list[Finding]:
    """Run checks in order; after one that ends the row, the others are skipped."""
    findings: list[Finding] = []
    ended = ""
    for check in checks:
        result = Result(SKIPPED, f"because of {ended}") if ended else _run(check, seconds)
        ended = check.name if result.ends else ended
        findings.append(
            Finding(peer, direction, check.name, result.verdict, result.found, result.expected, result.advice)
        )
    return findings


def _run(check: Check, seconds: float) -> Result:
    try:
        return within(seconds, check.work)
    except TimeoutError:
        check.cut()
        return Result(
            FAILED,
            f"no end within {seconds:.0f} s",
            f"an end within {seconds:.0f} s",
            f"The check {check.name!r} was cut off after {seconds:.0f} s. Please look whether the disk, the "
            "name servers and the network of this machine answer at all, and try again.",
            ends=True,
        )
    except OSError as error:
        found = f"{error.filename or 'this machine'}: {error.strerror or error}"
        advice = f"This machine could not do the check {check.name!r}. Please look into {found}."
        return Result(FAILED, found, "a file or folder that can be used", advice, ends=True)


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``, or its error; what takes longer is left behind in a thread of its own.

    Raises:
        TimeoutError: it did not end in time.
    """
    return _Job(work).result(seconds)


def side_by_side(works: Sequence[Callable[[], T]], at_once: int) -> list[T]:
    """The results of all, in their order; no more than ``at_once`` run at a time."""
    gate = threading.Semaphore(at_once)

    def gated(work: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            with gate:
                return work()

        return run

    jobs = [_Job(gated(work)) for work in works]
    return [job.result() for job in jobs]


class _Job(Generic[T]):
    """Work in a thread that keeps nobody from leaving the program."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, seconds: float | None = None) -> T:
        """What came of it, or the error. Raises TimeoutError."""
        self._thread.join(seconds)
        if self._errors:
            raise self._errors[0]
        if not self._results:
            raise TimeoutError(f"no end within {seconds or 0:.0f} s")
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._errors.append(error)
