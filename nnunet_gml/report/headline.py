"""Did it pay? One sentence and a few numbers, of the method looked at closely."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnunet_gml.report.blocks import gain_cell, megabytes, minutes, number, p_value
from nnunet_gml.report.study import Row, Study, known_mean

LEVEL = 0.05


@dataclass(frozen=True)
class Card:
    """One number of the headline."""

    title: str
    figure: str
    note: str
    tone: str = ""


def sentence(study: Study) -> str:
    """What came out, in one sentence that claims no more than interval and rank test together do."""
    row = study.arm_row(study.focus)
    if study.focus == study.baseline or math.isnan(row.gain.value):
        return f"No method could be compared with {study.baseline}: nothing can be said about a gain."
    way = "higher" if row.gain.low > 0 else "lower" if row.gain.high < 0 else ""
    if not way:
        return f"Between {study.focus} and {study.baseline} no clear difference in Dice was found."
    if row["p"] > LEVEL:
        return (
            f"With {study.focus} mean Dice was {way} than with {study.baseline}; whether for most patients "
            f"is not clear (rank test, {_p(row['p'])})."
        )
    return f"With {study.focus} Dice was {way} than with {study.baseline}."


def cards(study: Study) -> list[Card]:
    """Gain and cost of the method looked at closely."""
    row = study.arm_row(study.focus)
    gains = [_gain_card(row), *_worst_cards(row)] if study.focus != study.baseline else []
    return [*gains, *_bytes_card(study), *_time_card(study)]


def _gain_card(row: Row) -> Card:
    gain = gain_cell(*row.gain)
    notes = [f"95 % interval {gain.note}" if gain.note else "no interval: too few patients"]
    notes += [f"{row['patients']:.0f} patients"] if row["patients"] > 0 else []
    notes += [f"{_p(row['p'])} after Holm"] if not math.isnan(row["p"]) else []
    return Card("mean gain in Dice", gain.text, ", ".join(notes), gain.tone)


def _p(value: float) -> str:
    words = p_value(value).text
    return f"p {words}" if words.startswith("<") else f"p = {words}"


def _worst_cards(row: Row) -> list[Card]:
    named = (("worst_site", "site that gained least"), ("worst_class", "organ that gained least"))
    return [
        Card(title, number(row[f"{name}_gain"], 3, sign=True), row.word(name))
        for name, title in named
        if not math.isnan(row[f"{name}_gain"])
    ]


def _bytes_card(study: Study) -> list[Card]:
    fetched = known_mean([study.fetched_bytes(site, study.focus) for site in study.sites])
    if math.isnan(fetched):
        return []
    rounds = [len(training.rounds) for training in study.of_arm(study.focus).values()]
    spread = " to ".join(dict.fromkeys(map(str, (min(rounds), max(rounds)))))
    note = f"per site, in {spread} rounds with a peer" if any(rounds) else "per site"
    return [Card("network weights fetched", megabytes(fetched), note)]


def _time_card(study: Study) -> list[Card]:
    spent, stock = (study.mean_seconds(arm) for arm in (study.focus, study.baseline))
    if math.isnan(spent):
        return []
    times = f"{spent / stock:.1f} times the {minutes(stock)} of {study.baseline}" if stock > 0 else "per site"
    return [Card("training time per site", minutes(spent), times)]
