"""What was moved between the sites, and what went wrong on the way: from the couriers' ledgers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from nnunet_gml.printable import printable
from nnunet_gml.report.blocks import DASH, Cell, Figure, Panel, Section, Table, megabytes
from nnunet_gml.report.study import Study, known_mean
from nnunet_gml.report.svg import bottom_axis, cut, drawing, scale_of, text, told
from peer_sync.entries import Entry

NAMES_PX, ROW_PX, BARS_PX = 190, 30, 860
SHOWN_PROBLEMS = 60


@dataclass(frozen=True)
class Bar:
    """Bytes that one site fetches with one method."""

    title: str
    bytes: float
    colour: str
    is_computed: bool = False


def traffic(study: Study) -> Section:
    """Bytes per site for each method, beside what averaging all sites in every round would fetch."""
    lead = (
        "What a site fetched from its peers in the whole training, mean over the sites. Dashed bars are "
        "computed, not measured: FedAvg with as many rounds and the same network."
    )
    bars = [*_measured(study), *_computed(study)]
    if not any(bar.bytes > 0 for bar in bars):
        absent = "No ledger of exchanges (ledger.jsonl) was found, so the bytes are not known."
        return Section("bytes", "Bytes against FedAvg", lead, absent=absent)
    return Section("bytes", "Bytes against FedAvg", lead, [_bars(bars)])


def _measured(study: Study) -> list[Bar]:
    found = []
    for arm in study.arms:
        fetched = known_mean([study.fetched_bytes(site, arm) for site in study.sites])
        if not math.isnan(fetched):
            found.append(Bar(arm, fetched, study.colour(arm)))
    return found


def _computed(study: Study) -> list[Bar]:
    trainings = study.of_arm(study.focus)
    sizes = [e.bytes for t in trainings.values() for e in t.entries if e.verdict == "accepted" and e.bytes]
    numbers = [each.number for training in trainings.values() for each in training.rounds]
    if not sizes or not numbers or len(study.sites) < 2:
        return []
    once = median(sizes) * max(numbers)
    grey = "var(--muted)"
    return [
        Bar("FedAvg with a server", once, grey, is_computed=True),
        Bar("FedAvg without a server", once * (len(study.sites) - 1), grey, is_computed=True),
    ]


def _bars(bars: Sequence[Bar]) -> Figure:
    scale = scale_of([0.0, *(bar.bytes / 1e6 for bar in bars)], NAMES_PX, BARS_PX - 80, within=(0, math.inf))
    bottom = 8 + ROW_PX * len(bars)
    parts: list[Markup] = [bottom_axis(scale, 8, bottom, "fetched per site, MB (10⁶ bytes)", is_whole=False)]
    for place, bar in enumerate(bars):
        y, end = 8 + ROW_PX * place + 5, scale(bar.bytes / 1e6)
        style = "computed" if bar.is_computed else "bar"
        frame = {"x": NAMES_PX, "y": y, "width": max(1.0, end - NAMES_PX), "height": ROW_PX - 10}
        words = f"{bar.title}: {megabytes(bar.bytes)}"
        parts.append(told("rect", words, **frame, fill=bar.colour, stroke=bar.colour, class_=style))
        parts.append(text(NAMES_PX - 8, y + 14, cut(bar.title, NAMES_PX - 12), "end", class_="name"))
        parts.append(text(end + 6, y + 14, megabytes(bar.bytes), class_="value"))
    alt = (
        "Megabytes fetched per site: "
        + "; ".join(f"{bar.title} {megabytes(bar.bytes)}" for bar in bars)
        + "."
    )
    svg = drawing(alt, *parts, width=BARS_PX, height=bottom + 36)
    caption = (
        "With a server each site also sends as much as it fetches; without one it sends, on average, what it "
        "fetches, in all methods here."
    )
    return Figure("Bytes fetched per site", caption, [Panel("", svg, is_wide=True)])


def troubles(study: Study) -> Section:
    """Exchanges by their end, and every kind of refusal or outage with its last sentence."""
    lead = (
        "What the couriers wrote down. A refusal is an offer that broke a rule and was not used; an outage "
        "is a transfer that did not come about. Neither stops a training."
    )
    blocks: list[Table] = []
    if any(training.has_ledger for training in study.trainings.values()):
        blocks = [_exchanges(study)]
        problems = _problems(study)
        blocks += [_problem_table(problems)] if problems else []
        lead += "" if problems else " Here nothing was refused and nothing failed."
    absent = "No ledger of exchanges (ledger.jsonl) was found, so refusals and outages are not known."
    return Section("troubles", "Refusals and outages", lead, blocks, absent="" if blocks else absent)


def _exchanges(study: Study) -> Table:
    rows = []
    for (site, arm), training in study.ordered.items():
        if not training.has_ledger:
            continue
        ends = [each.verdict for each in training.entries if each.event == "collect"]
        counts = [ends.count(verdict) for verdict in ("accepted", "refused", "failed")]
        missed = _missed(study, site, arm)
        rows.append(
            [
                Cell(site),
                Cell(arm),
                *(Cell(str(count), count) for count in counts),
                Cell(missed[0], missed[1]),
                Cell(megabytes(training.fetched_bytes), training.fetched_bytes),
            ]
        )
    caption = "Exchanges by site and method; rounds without a peer, where a simulation counted them."
    heads = ["site", "method", "accepted", "refused", "failed", "rounds without a peer", "fetched"]
    return Table(caption, heads, rows)


def _missed(study: Study, site: str, arm: str) -> tuple[str, float | None]:
    counted: dict[str, Any] = (study.record.get("rounds") or {}).get(arm) or {}
    missed = (counted.get("without_peer") or {}).get(site)
    return (
        (f"{len(missed)} of {counted.get('due')}", float(len(missed)))
        if isinstance(missed, list)
        else (DASH, None)
    )


def _problems(study: Study) -> dict[tuple[str, str, str, str], list[Entry]]:
    found: dict[tuple[str, str, str, str], list[Entry]] = {}
    for (site, arm), training in study.ordered.items():
        for each in training.entries:
            if each.problem:
                what = each.rule or ("refused" if each.verdict == "refused" else "failed")
                found.setdefault((site, arm, each.peer or "own offers", what), []).append(each)
    return found


def _problem_table(problems: dict[tuple[str, str, str, str], list[Entry]]) -> Table:
    rows = []
    for (site, arm, peer, what), entries in list(problems.items())[:SHOWN_PROBLEMS]:
        last = max(entries, key=lambda each: each.time)
        rounds = [each.round for each in entries if each.round is not None]
        span = (
            f"{min(rounds)} to {max(rounds)}"
            if rounds and min(rounds) < max(rounds)
            else "".join(map(str, rounds[:1]))
        )
        said = printable(last.message or "")
        rows.append(
            [
                Cell(site),
                Cell(arm),
                Cell(peer),
                Cell(what),
                Cell(str(len(entries)), len(entries)),
                Cell(span or DASH, rounds[0] if rounds else None),
                Cell(said, note=f"{last.time:%Y-%m-%d %H:%M} UTC", is_sentence=True),
            ]
        )
    left_out = len(problems) - len(rows)
    caption = "Every kind of refusal and outage, with the last sentence about it." + (
        f" {left_out} more kinds are left out." if left_out else ""
    )
    return Table(caption, ["site", "method", "peer", "rule or end", "times", "rounds", "last sentence"], rows)
