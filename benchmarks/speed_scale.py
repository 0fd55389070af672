"""Part of `benchmarks/speed.py`: 2 to 32 sites as real courier processes; what each costs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring import Figures, figures
from speed_couriers import Courier, couriers, run_round, served_sites
from speed_settings import Settings, span, verdict

from nnunet_gml.markdown import markdown_table

PART = "scale"
TITLE = "2 to 32 couriers on this machine"
CROWDS = (2, 4, 8, 16, 32)
QUICK_CROWDS = (2, 3)
PAYLOAD_BYTES = 256 * 1024
ROUND_SECONDS = 5.0
QUICK_ROUND_SECONDS = 0.5
WAIT_SECONDS = 120.0
MOST_GROWTH = 1.25
"""What is still called constant: cost per site with the most sites, relative to that with the fewest."""
ABOUT = """\
Real courier processes, each with a server process of its own and real SFTP over loopback, without a
training: every site offers {size} KiB of random bytes in every round and fetches from the peer that the
product's schedule draws. {rounds} rounds, begun at all sites at once, at least {pace:g} s apart. Bytes: the
sites' ledgers. CPU: courier and server together, without their start; it includes idling between rounds.
All sites share this machine's cores, so seconds until the weights are there say nothing about sites of
their own.
"""


def measure(settings: Settings) -> dict[str, Any]:
    """Run every crowd; JSON-able."""
    pace = QUICK_ROUND_SECONDS if settings.quick else ROUND_SECONDS
    rounds = settings.repetitions
    sizes = QUICK_CROWDS if settings.quick else CROWDS
    with tempfile.TemporaryDirectory(prefix="speed-scale-") as folder:
        crowds = [run_crowd(Path(folder) / str(sites), sites, rounds, pace) for sites in sizes]
    return {"crowds": crowds, "rounds": rounds, "round_seconds": pace, "payload_bytes": PAYLOAD_BYTES}


def run_crowd(folder: Path, sites: int, rounds: int, pace_seconds: float) -> dict[str, Any]:
    """One federation of so many sites: bytes and CPU seconds per site and round.

    Args:
        folder: is made.
        sites: how many.
        rounds: how many.
        pace_seconds: from the beginning of one round to the next, at least.
    """
    folder.mkdir()
    payload = folder / "payload"
    payload.write_bytes(os.urandom(PAYLOAD_BYTES))
    names = [f"site-{number:02}" for number in range(sites)]
    federation = served_sites(folder, names)
    with couriers(federation, payload, "float16", WAIT_SECONDS) as crowd:
        before = [courier.cpu_seconds() for courier in crowd]
        answers = []
        for number in range(1, rounds + 1):
            next_round = time.monotonic() + pace_seconds
            answers.append(run_round(crowd, number))
            time.sleep(max(0.0, next_round - time.monotonic()))
        spent = [courier.cpu_seconds() - was for courier, was in zip(crowd, before, strict=True)]
        return {"sites": sites, **costs(crowd, spent, answers)}


def costs(
    crowd: list[Courier], spent_seconds: list[float], answers: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """Per site and round: median, least and most over the sites."""
    rounds = len(answers)
    pulled = [sum(row[place]["pulled"] for row in answers) for place in range(len(crowd))]
    fetched = [courier.collected_bytes() / rounds for courier in crowd]
    waits = [answer["seconds"] for row in answers for answer in row if answer["pulled"]]
    return {
        "rounds_done": sum(pulled) / (rounds * len(crowd)),
        "bytes": vars(figures(fetched)),
        "cpu_seconds": vars(figures([seconds / rounds for seconds in spent_seconds])),
        "wait_seconds": vars(figures(waits)) if waits else None,
        "complaints": sum(len(answer["said"]) for row in answers for answer in row),
    }


def growth(crowds: list[Mapping[str, Any]], what: str) -> float:
    """Median per site with the most sites over that with the fewest.

    >>> growth([{"a": {"median": 2.0}}, {"a": {"median": 3.0}}], "a")
    1.5
    """
    return float(crowds[-1][what]["median"] / crowds[0][what]["median"])


def tables(found: Mapping[str, Any]) -> str:
    """The section's Markdown."""
    crowds = found["crowds"]
    ends = f"{crowds[-1]['sites']} sites over {crowds[0]['sites']}"
    ratios = [[f"per site and round, {ends}", "ratio", "target", ""]]
    for what, title in (("bytes", "bytes fetched"), ("cpu_seconds", "CPU seconds")):
        ratio = growth(crowds, what)
        ratios.append([title, f"{ratio:.2f}", f"{MOST_GROWTH:g}", verdict(ratio, MOST_GROWTH)])
    rows = [["sites", "pulls that came", "bytes per site and round", "CPU s per site and round", "seconds"]]
    for crowd in crowds:
        rows.append(
            [
                str(crowd["sites"]),
                f"{crowd['rounds_done']:.0%}",
                span(Figures(**crowd["bytes"]), "{:,.0f}"),
                span(Figures(**crowd["cpu_seconds"]), "{:.3f}"),
                span(Figures(**crowd["wait_seconds"]), "{:.1f}") if crowd["wait_seconds"] else "-",
            ]
        )
    about = ABOUT.format(
        size=found["payload_bytes"] // 1024, rounds=found["rounds"], pace=found["round_seconds"]
    )
    after = (
        "Median over the sites, in brackets the least and the most; seconds: until the weights were there.\n"
    )
    return "\n".join([about, markdown_table(ratios), markdown_table(rows), after])
