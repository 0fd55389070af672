"""Part of `benchmarks/speed.py`: up to 1,000 sites in a simulation of the schedule alone.

No courier and no training: who draws whom comes from `peer_sync.gossip`, the code that trainings run, and
sites that are away neither pull nor can be pulled from.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from speed_rounds import default_rounds
from speed_schedule_picture import draw
from speed_settings import Settings, verdict

from nnunet_gml.markdown import markdown_table
from peer_sync.gossip import draw_peer

PART = "schedule"
TITLE = "1,000 sites: the schedule alone"
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "speed-schedule.svg"
SITES = (10, 30, 100, 300, 1000)
QUICK_SITES = (4, 8)
SEEDS = 5
AWAY = (0.0, 0.1, 0.3)
MOST_GROWTH = 1.25
"""What is still called constant: the largest federation over the smallest."""
MOST_OVER_LOG = 1.5
"""Growth of rounds over log2 N that is still called O(log N); with the root of N it would be 3.3."""
MOST_BUSY = 1.5
"""Files that the most pulled outbox gives in a whole training, over the mean; a server gives N times it."""
ABOUT = """\
Who fetches from whom in each round is drawn by `peer_sync/gossip.py` itself. A site hands on what it has
taken in: after round r its offer carries traces of all whose weights had reached it by then (the strongest
reading: a trace may be faint, or the gate may refuse it). Away: in each round another random share of the
sites neither fetches nor can be fetched from; whoever draws one of them goes on without a peer. {seeds}
seeds of the federation, {rounds} rounds each, those of a default training. What still counts as constant,
as O(log N) and as no hot spot is our own reading of these words. Not in here: a manifest names its
recipients, some 12 bytes for each site of the federation.
"""
READING = """\
*Reached*: rounds until every site's weights have reached every other site; median and most over the seeds.
*Most pulled*: fetches from the same outbox in one round, typical (median over rounds of the most pulled
one) and most in any round; random draws give ln N / ln ln N, a server has N in every round. *Busiest*:
fetches from the most pulled outbox in the whole training, over the mean. Files: fetched per site and round.
Draw: time to find one's peer, once per site and round.
"""


def measure(settings: Settings) -> dict[str, Any]:
    """Simulate every federation, and draw the picture; JSON-able."""
    sizes = QUICK_SITES if settings.quick else SITES
    rounds = len(default_rounds())
    rows = [row for sites in sizes for row in federations(sites, rounds, range(1, SEEDS + 1))]
    found = {"rows": rows, "rounds": rounds, "seeds": SEEDS}
    settings.out.mkdir(parents=True, exist_ok=True)
    draw(rows, settings.out / PICTURE.name)
    if not settings.quick:
        draw(rows, PICTURE)
    return found


def federations(sites: int, rounds: int, seeds: Collection[int]) -> list[dict[str, Any]]:
    """One row for each share of sites that are away; the same draws in all."""
    started = time.process_time()
    drawn = {seed: draws(sites, rounds, seed) for seed in seeds}
    draw_seconds = (time.process_time() - started) / (sites * rounds * len(drawn))
    rows = []
    for share in AWAY:
        runs = [course(each, absences(sites, rounds, share, seed)) for seed, each in drawn.items()]
        rows.append({"sites": sites, "away": share, "draw_seconds": draw_seconds, **summary(runs)})
    return rows


def draws(sites: int, rounds: int, seed: int) -> list[list[int]]:
    """For each round the number of each site's peer."""
    names = [f"site-{number:04}" for number in range(sites)]
    numbers = {name: number for number, name in enumerate(names)}
    return [
        [numbers[draw_peer(seed, name, number, names)] for name in names] for number in range(1, rounds + 1)
    ]


def absences(sites: int, rounds: int, share: float, seed: int) -> list[set[int]]:
    """For each round the sites that are away, drawn anew."""
    generator = random.Random(f"{seed} {share}")  # noqa: S311 - a simulation
    return [set(generator.sample(range(sites), round(share * sites))) for _ in range(rounds)]


def course(drawn: Sequence[Sequence[int]], away: Sequence[Collection[int]]) -> dict[str, Any]:
    """What becomes of one federation.

    Args:
        drawn: for each round each site's peer.
        away: for each round the sites that are away.

    Returns:
        ``reached``: rounds until all have reached all, None if they never do; ``hottest``: for each round
        how often the most pulled outbox was fetched from; ``busiest``: the same for all rounds together,
        over the mean; ``files``: fetched per site and round.
    """
    sites = len(drawn[0])
    everybody, knows = (1 << sites) - 1, [1 << site for site in range(sites)]
    reached, hottest, pulled = None, [], Counter[int]()
    for number, (peers, absent) in enumerate(zip(drawn, away, strict=True), start=1):
        fetches = {site: peer for site, peer in enumerate(peers) if site not in absent and peer not in absent}
        offered = list(knows)
        for site, peer in fetches.items():
            knows[site] |= offered[peer]
        of_round = Counter(fetches.values())
        hottest.append(max(of_round.values(), default=0))
        pulled += of_round
        if reached is None and all(known == everybody for known in knows):
            reached = number
    mean = pulled.total() / sites
    files = mean / len(drawn)
    busiest = max(pulled.values(), default=0) / mean if mean else math.nan
    return {"reached": reached, "hottest": hottest, "busiest": busiest, "files": files}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several seeds of one federation; infinite where all never reached all."""
    reached = [math.inf if run["reached"] is None else run["reached"] for run in runs]
    return {
        "reached": {"median": median(reached), "most": max(reached), "least": min(reached)},
        "typical_hottest": median(count for run in runs for count in run["hottest"]),
        "hottest": max(count for run in runs for count in run["hottest"]),
        "busiest": max(run["busiest"] for run in runs),
        "files": median(run["files"] for run in runs),
    }


def tables(found: Mapping[str, Any]) -> str:
    """The section's Markdown."""
    rows = found["rows"]
    about = ABOUT.format(seeds=found["seeds"], rounds=found["rounds"])
    picture = (
        f"![Rounds until all have reached all, and the most pulled outbox](../pictures/{PICTURE.name})\n"
    )
    return "\n".join([about, markdown_table(targets(rows)), markdown_table(details(rows)), READING, picture])


def targets(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Every promised ratio."""
    small, large = ([row for row in rows if row["sites"] == end] for end in ends_of(rows))
    ends = "{1:,} sites over {0:,}".format(*ends_of(rows))
    found = [
        (f"rounds until all have reached all, over log2 N; {here['away']:.0%} away; {ends}", *growth, limit)
        for there, here in zip(small, large, strict=True)
        for growth, limit in [((per_log(there), per_log(here)), MOST_OVER_LOG)]
    ]
    found += [
        (f"{text}, nobody away, {ends}", small[0][key], large[0][key], MOST_GROWTH)
        for key, text in (("files", "files fetched per site and round"), ("draw_seconds", "CPU of a draw"))
    ]
    text = "files from the most pulled outbox in a training, over the mean; nobody away, worst N and seed"
    found.append((text, 1.0, max(row["busiest"] for row in rows if not row["away"]), MOST_BUSY))
    cells = [["what", "ratio", "target", ""]]
    for text, before, after, limit in found:
        cells.append([text, f"{after / before:.2f}", f"{limit:g}", verdict(after / before, limit)])
    return cells


def ends_of(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Sites of the smallest and of the largest federation."""
    sites = [row["sites"] for row in rows]
    return min(sites), max(sites)


def per_log(row: Mapping[str, Any]) -> float:
    """Median rounds until all have reached all, over log2 of the sites."""
    return float(row["reached"]["median"] / math.log2(row["sites"]))


def details(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One row for each federation and share."""
    heads = ["sites", "away", "reached", "most pulled", "busiest", "files", "draw"]
    cells = [heads]
    for row in rows:
        cells.append(
            [
                f"{row['sites']:,}",
                f"{row['away']:.0%}",
                f"{row['reached']['median']:g} [most {row['reached']['most']:g}]",
                f"{row['typical_hottest']:g} [most {row['hottest']}]",
                f"{row['busiest']:.2f}",
                f"{row['files']:.2f}",
                f"{1e6 * row['draw_seconds']:.0f} µs",
            ]
        )
    return cells
