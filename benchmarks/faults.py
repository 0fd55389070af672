"""`make faults`: everything that may go wrong between sites, done to real processes, as one table.

Runs tests/faults, where the docstring of each test is a row, and writes docs/results/faults.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "faults.md"
PACKAGES = ("nnunet-gml", "paramiko", "cryptography", "pyrage", "nnunetv2", "torch", "safetensors", "pytest")
ABOUT = """\
# Faults: what happens when something goes wrong

Made by `make faults`, which runs the tests in `tests/faults` and takes each test's own
words for its row. Sites are processes of their own, each with its own folder, keys, courier and embedded
server, and what carries the bytes between them is a proxy on loopback that can do all this. Their limits of
time are a few seconds instead of the usual 15 to 60, unless a row says otherwise; what depends on the carrier
is tried with both, paramiko and the system's `ssh`. After a fault the sites' folders are looked at: no half
offer, readable state and ledger, nothing left over; and the next exchange has to work. (Flipped bits and
damaged deliveries need no second process.)

*Cases* are moments, positions or inputs, each of them tried. *Before each line of code* means that a process
was killed once before every line of peer_sync that the work runs, and that after each kill another process
did the work to its end. Seconds are those of this run, in which other work may have shared the machine.
"""
BAD = ("failure", "error")


@dataclass(frozen=True)
class Outcome:
    """What became of one test, or of one of its variants.

    Attributes:
        group: what kind of fault; the test module's own words.
        fault: what goes wrong.
        promise: what has to happen then.
        result: ``passed``, ``failed`` or ``skipped: REASON``.
        cases: how many of them the test tried.
        found: what it measured besides; may be empty.
        seconds: how long it took.
    """

    group: str
    fault: str
    promise: str
    result: str
    cases: int
    found: str
    seconds: float


def read_report(text: str) -> list[Outcome]:
    """The tests in a JUnit report, in its order."""
    return [_outcome(case) for case in ElementTree.fromstring(text).iter("testcase")]  # noqa: S314 - our own


def page(outcomes: Sequence[Outcome], day: datetime, versions: str) -> str:
    """The whole page."""
    groups = list(dict.fromkeys(outcome.group for outcome in outcomes))
    failed = sum(outcome.result == "failed" for outcome in outcomes)
    skipped = sum(outcome.result.startswith("skipped") for outcome in outcomes)
    summary = f"{len(outcomes)} tests, {failed} failed, {skipped} skipped; {day:%Y-%m-%d}.\n"
    parts = [ABOUT, summary, *(_section(group, outcomes) for group in groups), f"{versions}\n"]
    return "\n".join(parts)


def versions() -> str:
    """What was tested, and on how many cores."""
    found = [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    return f"On {os.cpu_count()} CPU cores; {', '.join(found)}, {_openssh()}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, write the page; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "tests/faults", "-m", "slow or not slow"),
                *(f"--junitxml={report}", "-o", "junit_family=xunit1"),
            ],
            cwd=ROOT,
        ).returncode
        if not report.exists():
            return code
        text = page(read_report(report.read_text()), datetime.now(UTC), versions())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    sys.stdout.write(text)
    return code


def _outcome(case: ElementTree.Element) -> Outcome:
    facts = {found.get("name", ""): found.get("value", "") for found in case.iter("property")}
    skipped = case.find("skipped")
    result = "passed" if skipped is None else f"skipped: {skipped.get('message', '')}"
    if any(case.find(kind) is not None for kind in BAD):
        result = "failed"
    name = case.get("name", "")
    return Outcome(
        facts.get("group", case.get("classname", "")),
        facts.get("fault", name),
        facts.get("promise", ""),
        result,
        int(facts.get("cases", 1)),
        facts.get("found", ""),
        float(case.get("time", 0)),
    )


def _section(group: str, outcomes: Iterable[Outcome]) -> str:
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.group == group:
            rows.setdefault(outcome.fault, []).append(outcome)
    lines = [
        f"## {group}\n",
        "| fault | what has to happen | cases | result | seconds |",
        "| --- | --- | --- | --- | --- |",
        *(_row(variants) for variants in rows.values()),
    ]
    return "\n".join(lines) + "\n"


def _row(variants: Sequence[Outcome]) -> str:
    """Variants of one test are one row, which passed only if all of them did."""
    results = list(dict.fromkeys(variant.result for variant in variants))
    counts = {result: sum(variant.result == result for variant in variants) for result in results}
    told = results[0] if len(results) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())
    found = "; ".join(dict.fromkeys(variant.found for variant in variants if variant.found))
    cells = (
        variants[0].fault,
        variants[0].promise,
        f"{sum(variant.cases for variant in variants):,}",
        f"{told} ({found})" if found else told,
        f"{sum(variant.seconds for variant in variants):.1f}",
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _openssh() -> str:
    try:
        told = subprocess.run(["ssh", "-V"], capture_output=True, text=True)
    except OSError:
        return "no OpenSSH"
    return (told.stderr or told.stdout).split(",")[0].split()[0].replace("_", " ")


if __name__ == "__main__":
    sys.exit(main())
