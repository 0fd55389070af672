"""The page with an experiment's tables, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from evidence_numbers import OF_ONE_RUN, Comparison, Results, Run, check_alike, read_runs
from evidence_plans import ALL_LABELS, ARMS, Experiment

from nnunet_gml import stats

NOTES = "## What was tried, and why it is so"
FAIR = """\
All arms begin with the same weights and train equally many epochs; all but *pooled*, which draws from another
set of cases, draw the same patches in every epoch. An epoch with a peer costs about twice the time of a stock
one; with *frozen*, whose peer is not trained, less than twice. *pooled* trains as many iterations in all as
one site alone, on all sites' cases. *ensemble* averages the probabilities of all individual models. Dice:
mean over held-out cases of the mean over classes; a class that neither contour has is left out. Gains are
paired by case and class; where the label lacks a class, an arm that shows none of it counts as 1, one that
shows some as 0. Intervals (95 %) are bootstrapped over patients, and with few of them too narrow; they cover
which patients were held out, not the randomness of training: only further seeds show that. p: Wilcoxon's
signed ranks over patients, Holm's correction over the arms of the table. MB: all
that all sites fetched (their ledgers), manifests included; for the ensemble each model moved once to every
other site. FedAvg here has no server: each of the N sites fetches from N - 1 others in a round. Through a
server it would move 2N files: both percentages are given. Minutes: training of all sites side by side; a
training that was interrupted counts from its continuation. After the last exchange every arm trains some
epochs on local data alone, so FedAvg's networks differ between sites too.
"""


def write_page(target: Path, experiment: Experiment, out: Path, seeds: Sequence[int], command: str) -> None:
    """Write the page from the runs in ``out``; what stands below the heading `NOTES` is kept."""
    runs = {
        part.name: read_runs((seed, out / run_name(part.name, seed)) for seed in seeds)
        for part in experiment.parts
    }
    kept = _notes(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(experiment, runs, command) + kept)


def run_name(part: str, seed: int) -> str:
    """Folder of one run.

    >>> run_name("all-labels", 2), run_name("", 1)
    ('seed-2-all-labels', 'seed-1')
    """
    return f"seed-{seed}-{part}" if part else f"seed-{seed}"


def page(experiment: Experiment, runs: Mapping[str, Sequence[Run]], command: str) -> str:
    """The whole page but for the notes."""
    results = Results(runs[experiment.parts[0].name])
    check_alike([run for each in runs.values() for run in each], (*OF_ONE_RUN, "unlabelled"))
    made = f"Made by `{command}`.\n"
    if not results.runs:
        return f"{experiment.about}\n{made}\nNothing has finished yet.\n"
    sections = [
        experiment.about,
        FAIR,
        f"{_unfinished(experiment, results)}",
        "## Arms\n",
        arm_table(results),
        rounds_sentence(results),
    ]
    if experiment.missing:
        sections += ["## The organ that one site does not contour\n"]
        sections += [missing_table(results, Results(runs[ALL_LABELS]), *experiment.missing)]
    sections += ["## Against other ways to share weights\n", against_table(results)]
    sections += ["## Each class\n", class_table(results, experiment.small)]
    sections += ["## How it was made\n", made, _facts(results.runs)]
    return "\n".join(section for section in sections if section)


def arm_table(results: Results) -> str:
    """One row per arm, with its gain over the individual models."""
    base = results.individual
    gains = {name: results.compare(name, base) for name in results.arms if base and name != base}
    corrected = dict(zip(gains, stats.holm([gain.p for gain in gains.values()]), strict=True))
    rows = [["arm", "Dice", *results.sites, "gain [95 %]", "p", "worst site", *BYTES, "minutes", "seeds"]]
    for name in results.arms:
        gain = gains.get(name)
        worst = results.worst_gain(name, base) if base and gain else ("", math.nan)
        rows.append(
            [
                name,
                _number(results.dice(name)),
                *(_number(results.dice(name, site)) for site in results.sites),
                _gain(gain),
                _number(corrected.get(name, math.nan), "{:.3f}"),
                f"{_number(worst[1], '{:+.4f}')} {worst[0]}".strip(),
                *_bytes(results, name),
                _number(results.training_seconds(name) / 60, "{:.1f}"),
                ", ".join(map(str, results.seeds(name))) or "none",
            ]
        )
    return _markdown(rows)


def rounds_sentence(results: Results) -> str:
    """Which rounds of which arm were without a peer; empty where no arm that exchanges has finished."""
    finished = [name for name, arm in results.arms.items() if arm.exchanges and results.seeds(name)]
    if not finished:
        return ""
    lonely = [
        f"{name} at {site}, seed {seed}: {', '.join(map(str, numbers))} of {counted['due']}"
        for name in finished
        for seed, counted in results.rounds(name).items()
        for site, numbers in counted["without_peer"].items()
        if numbers
    ]
    text = f"Rounds without a peer (for FedAvg: without one of the others): {'; '.join(lonely) or 'none'}."
    unknown = [name for name in finished if len(results.rounds(name)) < len(results.seeds(name))]
    return f"{text}{' Not counted: ' + ', '.join(unknown) + '.' if unknown else ''}\n"


BYTES = ("MB", "of FedAvg's", "of FedAvg's by a server")


def _bytes(results: Results, arm: str) -> tuple[str, str, str]:
    moved = results.moved_bytes(arm)
    every = next(
        (results.moved_bytes(n) for n, a in results.arms.items() if a.trainer == "nnUNetTrainerFedAvg"), 0.0
    )
    share = moved / every if every else math.nan
    by_server = share * (len(results.sites) - 1) / 2
    return _number(moved / 1e6, "{:.1f}"), _number(share, "{:.0%}"), _number(by_server, "{:.0%}")


def against_table(results: Results) -> str:
    """Each arm that exchanges, minus FedAvg and minus gossip averaging; Holm within a column."""
    others = [
        name
        for name, arm in results.arms.items()
        if arm.trainer in ("nnUNetTrainerFedAvg", "nnUNetTrainerGossipAverage") and not arm.attributes
    ]
    names = [name for name, arm in results.arms.items() if arm.exchanges and name not in others]
    if not others or not names:
        return "Neither FedAvg nor gossip averaging has been run.\n"
    columns = []
    for other in others:
        found = [results.compare(name, other) for name in names]
        corrected = stats.holm([each.p for each in found])
        columns.append([f"minus {other} [95 %]", *map(_gain, found)])
        columns.append(["p", *(_number(p, "{:.3f}") for p in corrected)])
    return _markdown(list(map(list, zip(["arm", *names], *columns, strict=True))))


def class_table(results: Results, small: Sequence[str]) -> str:
    """Mean Dice of every class, the small ones last, and means of both groups."""
    large = [name for name in results.classes if name not in small]
    groups: list[tuple[str, Sequence[str]]] = [(name, [name]) for name in large]
    if small:
        groups += [("**all but the small**", large), *((name, [name]) for name in small)]
        groups += [("**small organs**", small)]
    rows = [["class", *results.arms]]
    for title, classes in groups:
        rows.append([title, *(_number(results.dice(arm, None, classes)) for arm in results.arms)])
    return _markdown(rows)


def missing_table(results: Results, reference: Results, site: str, organ: str) -> str:
    """What each arm reaches for the organ at the site that does not contour it."""
    best = reference.dice(reference.individual or "", site, [organ])
    rows = [["arm", f"Dice of {organ} at {site}", "share of the reference", f"Dice of {organ} elsewhere"]]
    for name in results.arms:
        here = results.dice(name, site, [organ])
        there = [results.dice(name, other, [organ]) for other in results.sites if other != site]
        mean = sum(there) / len(there) if there else math.nan
        rows.append(
            [name, _number(here), _number(here / best if best else math.nan, "{:.0%}"), _number(mean)]
        )
    rows.append([f"reference: individual, {site} with all contours", _number(best), "100%", "-"])
    return (
        f"{_markdown(rows)}\nThe target was a share of at least 80 %; stock nnU-Net (individual) learns the "
        f"organ as background at {site}.\n"
    )


def _unfinished(experiment: Experiment, results: Results) -> str:
    open_ = [name for name in results.arms if not results.seeds(name)]
    never = [name for name in experiment.parts[0].arms if name not in results.arms]
    lines = [f"Not finished at every site: {', '.join(open_)}." if open_ else ""]
    lines += [f"Not run: {', '.join(never)}." if never else ""]
    later = [n for n in ARMS if n not in experiment.parts[0].arms and n not in results.arms]
    lines += [f"Left out of the reduced matrix: {', '.join(later)}." if later else ""]
    return " ".join(line for line in lines if line) + "\n" if any(lines) else ""


def _facts(runs: Sequence[Run]) -> str:
    record = runs[-1].record
    recipe = record["recipe"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    told = ("datasets", "trainers", "seed", "device")
    settings = ", ".join(
        f"{name} {'x'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in recipe.items()
        if value not in (None, []) and name not in told
    )
    arms = "".join(f"- `{words}`\n" for words in recipe["trainers"])
    machines = _machines(runs)
    return (
        f"Arms, as `nnunet-gml simulate --arm` reads them:\n\n{arms}\n"
        f"Settings of all: {settings}; prediction {record['prediction']}.\n\n"
        f"{machines}, {record['threads_per_training']} thread per training, device {recipe['device']}; "
        f"{versions}. Other work may have shared the machine.\n"
    )


def _machines(runs: Sequence[Run]) -> str:
    """The machines that trained, as the runs have recorded them."""
    arms = [facts for run in runs for facts in run.record.get("trained", {}).values()]
    found = [f"{m['cores']} CPU cores ({m['processor']})" for facts in arms for m in facts["machines"]]
    return "; ".join(dict.fromkeys(found)) or "machine not recorded"


def _notes(target: Path) -> str:
    text = target.read_text() if target.exists() else ""
    return f"\n{text[text.index(NOTES) :]}" if NOTES in text else ""


def _gain(found: Comparison | None) -> str:
    if found is None or math.isnan(found.gain):
        return "-"
    low, high = found.interval
    return f"{found.gain:+.4f} [{_number(low, '{:+.4f}')}, {_number(high, '{:+.4f}')}]"


def _number(value: float, form: str = "{:.4f}") -> str:
    return "-" if math.isnan(value) else form.format(value)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
