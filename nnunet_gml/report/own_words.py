"""What the sites of a federation said of themselves, from what one of them, or all together, collected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from nnunet_gml.explanation import mean
from nnunet_gml.report.blocks import Cell, Figure, Panel, Section, Table, cell, number
from nnunet_gml.report.study import Study
from nnunet_gml.report.svg import WIDTH, Scale, bottom_axis, drawing, left_axis, line, mark, scale_of
from peer_sync.figures import Figure as Words
from peer_sync.figures import read_figures

NAME, TITLE = "words", "What each site said of itself"
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 60, WIDTH - 10, 12, 132, 168
SHOWN_SITES, SHOWN_POINTS, SHOWN_CLASSES, SITES_ABREAST = 12, 120, 60, 8
WITHHELD, NOT_CONTOURED = Cell("withheld"), Cell("not contoured")
ACCENT = "var(--accent)"


def own_words(study: Study) -> list[Section]:
    """One section; none where nothing was collected."""
    every = collected(_folders(study))
    if every is None:
        absent = "The runs are of several federations: compare one alone to see what its sites said."
        return [Section(NAME, TITLE, "", absent=absent)]
    found = _by_site(study, every)
    if not found:
        return []
    lead = (
        f"{_where(study)} Every number is a site's own, about its own validation cases (nnU-Net's pseudo "
        "Dice, not the held-out cases). A signature tells who said it; nobody has checked whether it is so. "
        "A difference between two sites may be one between their images or their contours."
    )
    titles = {name: _title(study, name) for name in found}
    blocks: list[Table | Figure] = [
        *_curves(titles, found),
        _offers(study, titles, found),
        *_per_class(titles, found),
    ]
    return [Section(NAME, TITLE, lead, blocks)]


def collected(folders: Iterable[Path]) -> list[Words] | None:
    """The figures in all courier's folders together, each once, by site and offer.

    Returns:
        None where one offer of one site is told in two ways: then these are several federations.

    Raises:
        ConfigError: they cannot be read.
    """
    found: dict[tuple[str, int], Words] = {}
    for folder in folders:
        for each in read_figures(folder):
            if found.setdefault((each.site, each.sequence), each) != each:
                return None
    return [each for _, each in sorted(found.items())]


def last_training(told: Sequence[Words]) -> Sequence[Words]:
    """One site's figures since its epochs last fell: there another training began."""
    falls = [place for place, (one, next_) in enumerate(pairwise(told), 1) if next_.epoch < one.epoch]
    return told[falls[-1] :] if falls else told


def _folders(study: Study) -> list[Path]:
    """Of the site that makes the report; else of all sites of the method looked at closely."""
    if study.site:
        return [study.site.folder]
    mails = [each.mail for each in study.predicted if each.mail and each.arm == study.focus]
    return list(dict.fromkeys(mails))


def _where(study: Study) -> str:
    if study.site:
        return f"As site {study.site.name} has collected it."
    return f"{study.focus}: as these sites have collected it."


def _by_site(study: Study, every: Sequence[Words]) -> dict[str, Sequence[Words]]:
    """In the order of federation.toml, where it is known; without those that are no longer in it."""
    names = [member.name for member in study.site.federation.members] if study.site else []
    told = {name: [each for each in every if each.site == name] for name in names or _names(every)}
    return {name: last_training(words) for name, words in told.items() if words}


def _names(every: Iterable[Words]) -> list[str]:
    return list(dict.fromkeys(each.site for each in every))


def _title(study: Study, name: str) -> str:
    return f"{name} (this site)" if study.site and study.site.name == name else name


def _dice(words: Words, name: str) -> float:
    return (words.dice or {}).get(name, math.nan)


def _mean(words: Words) -> float:
    """Over the classes that the site contours and has a Dice of; nan for none."""
    return mean(_dice(words, name) for name in words.labelled)


def _curves(titles: Mapping[str, str], found: Mapping[str, Sequence[Words]]) -> list[Figure]:
    """A small panel for each site; all have the same axes."""
    means = {name: [_mean(each) for each in told] for name, told in found.items()}
    open_ = [name for name in found if not all(map(math.isnan, means[name]))]
    if not open_:
        return []
    rounds = [each.round for name in open_ for each in found[name]]
    across = Scale(min(rounds), max(max(rounds), min(rounds) + 1), LEFT + 8, RIGHT)
    up = scale_of([each for name in open_ for each in means[name]], BOTTOM, TOP, within=(0, 1))
    shown = open_[:SHOWN_SITES]
    drawn = {name: _panel(titles[name], found[name], means[name], across, up) for name in shown}
    panels = [Panel(titles[name], svg) for name, svg in drawn.items()]
    caption = "Mean over the organs that the site contours; all panels have the same axes."
    silent = [titles[name] for name in found if name not in open_]
    caption += f" No Dice is known of {', '.join(silent)}." if silent else ""
    left_out = len(open_) - len(shown)
    caption += f" {left_out} more sites are in the tables only." if left_out else ""
    return [Figure("Mean Dice by round, by each site's own word", caption, panels)]


def _panel(title: str, told: Sequence[Words], means: Sequence[float], across: Scale, up: Scale) -> Markup:
    step = math.ceil(len(told) / SHOWN_POINTS)
    every = list(zip(told, means, strict=True))
    points = every[::-1][::step][::-1]  # the last one stays
    curve = [(across(each.round), up(dice)) for each, dice in points]
    parts = [
        left_axis(up, LEFT, RIGHT, "mean Dice (0 to 1)"),
        bottom_axis(across, TOP, BOTTOM, "round"),
        line(curve, stroke=ACCENT, class_="curve"),
    ]
    parts += [
        mark(across(each.round), up(dice), 0, ACCENT, f"{title}, round {each.round}: {number(dice)}", 2.8)
        for each, dice in points
        if not math.isnan(dice)
    ]
    alt = f"Mean Dice by round that {title} says it has; at the end: {number(means[-1])}."
    return drawing(alt, *parts, height=HEIGHT)


def _offers(study: Study, titles: Mapping[str, str], found: Mapping[str, Sequence[Words]]) -> Table:
    rows = [
        [
            Cell(titles[name]),
            Cell(str(len(told)), len(told)),
            Cell(f"{told[-1].created:%Y-%m-%d %H:%M} UTC", told[-1].created.timestamp()),
            Cell(str(told[-1].round), told[-1].round),
            Cell(str(told[-1].epoch), told[-1].epoch),
            WITHHELD if told[-1].cases is None else Cell(str(told[-1].cases), told[-1].cases),
            WITHHELD if told[-1].dice is None else cell(_mean(told[-1])),
        ]
        for name, told in found.items()
    ]
    heads = ["site", "offers known", "last offer", "its round", "its epoch", "training cases", "mean Dice"]
    return Table(" ".join(_sentences(study, found)), heads, rows)


def _sentences(study: Study, found: Mapping[str, Sequence[Words]]) -> Iterable[str]:
    yield "The last offer of each site that is known here; only its last training counts, times are its own."
    if study.site:
        silent = [each.name for each in study.site.federation.members if each.name not in found]
        if silent:
            yield f"Nothing is known of {', '.join(silent)}."
    if len({told[-1].plans_digest for told in found.values()}) > 1:
        yield "They do not all train the same plans."


def _per_class(titles: Mapping[str, str], found: Mapping[str, Sequence[Words]]) -> list[Table]:
    """Classes by sites, so many sites side by side as a page has room for."""
    last = {name: told[-1] for name, told in found.items()}
    classes = list(dict.fromkeys(name for words in last.values() for name in words.labelled))
    caption = "Dice per organ in that offer, by the site's own word."
    left_out = len(classes) - SHOWN_CLASSES
    caption += f" {left_out} more organs are left out." if left_out > 0 else ""
    parts = [list(last)[start : start + SITES_ABREAST] for start in range(0, len(last), SITES_ABREAST)]
    return [
        Table(
            caption,
            ["organ", *(titles[name] for name in part)],
            [
                [Cell(organ), *(_of_class(last[name], organ) for name in part)]
                for organ in classes[:SHOWN_CLASSES]
            ],
        )
        for part in parts
    ]


def _of_class(words: Words, organ: str) -> Cell:
    if organ not in words.labelled:
        return NOT_CONTOURED
    return WITHHELD if words.dice is None else cell(_dice(words, organ))
