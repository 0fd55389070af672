"""The page with an experiment's tables, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from evidence_plans import ALL_LABELS, ARMS, Experiment

from nnunet_gml import stats
from nnunet_gml.markdown import markdown_table
from nnunet_gml.simulation.scores import number_text
from nnunet_gml.simulation.seed_table import arm_table, gain_text, rounds_sentence
from nnunet_gml.simulation.several import OF_ONE_RUN, Results, Run, check_alike, read_runs

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
OF_SPLIT = ("held_out", "table")
"""Settings without a meaning where every site has a raw dataset of its own."""


def write_page(target: Path, experiment: Experiment, out: Path, seeds: Sequence[int], command: str) -> None:
    """Write the page from the runs in ``out``; what stands below the heading `NOTES` is kept."""
    runs = {
        part.name: read_runs((seed, out / run_name(part.name, seed)) for seed in seeds)
        for part in experiment.parts
    }
    kept = notes_below(target)
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
    honest = f"{experiment.honest_name.capitalize()}.\n" if experiment.honest_name else ""
    sections = [
        experiment.about,
        FAIR,
        f"{_unfinished(experiment, results)}",
        "## Arms\n",
        honest,
        arm_table(results),
        seeds_sentence(results),
        rounds_sentence(results),
    ]
    if experiment.missing:
        sections += ["## The organ that one site does not contour\n", honest]
        sections += [missing_table(results, Results(runs[ALL_LABELS]), *experiment.missing)]
    sections += ["## Against other ways to share weights\n", honest]
    sections += [against_table(results, baselines(results)), against_whole(results, experiment.whole, honest)]
    sections += ["## Each class\n", honest, class_table(results, experiment.small)]
    sections += ["## How it was made\n", made, _facts(results.runs)]
    return "\n".join(section for section in sections if section)


def seeds_sentence(results: Results) -> str:
    """A warning where not all arms have run with the same seeds; else empty."""
    seeds = {results.seeds(name) for name in results.arms} - {()}
    if len(seeds) < 2:
        return ""
    return (
        "Not every arm has run with every seed. Another seed has other training cases and held-out cases: "
        "compare gains, which are paired, not Dice.\n"
    )


def baselines(results: Results) -> list[str]:
    """FedAvg and gossip averaging, as they are, where they have been run."""
    return [
        name
        for name, arm in results.arms.items()
        if arm.trainer in ("nnUNetTrainerFedAvg", "nnUNetTrainerGossipAverage") and not arm.attributes
    ]


def against_table(results: Results, others: Sequence[str]) -> str:
    """Each arm that exchanges, minus each of some others; Holm within a column."""
    names = [name for name, arm in results.arms.items() if arm.exchanges and name not in others]
    if not others or not names:
        return "Neither FedAvg nor gossip averaging has been run.\n"
    columns = []
    for other in others:
        found = [results.compare(name, other) for name in names]
        corrected = stats.holm([each.p for each in found])
        columns.append([f"minus {other} [95 %]", *map(gain_text, found)])
        columns.append(["p", *(stats.p_text(p) for p in corrected)])
    return markdown_table(list(map(list, zip(["arm", *names], *columns, strict=True))))


def against_whole(results: Results, whole: str, honest: str) -> str:
    """What each part of the method is worth, where the page takes it apart; else empty."""
    if whole not in results.arms:
        return ""
    sections = ["## Against the whole method\n", honest, against_table(results, [whole])]
    return "\n".join(section for section in sections if section)


def class_table(results: Results, small: Sequence[str]) -> str:
    """Mean Dice of every class, the small ones last, and means of both groups."""
    large = [name for name in results.classes if name not in small]
    groups: list[tuple[str, Sequence[str]]] = [(name, [name]) for name in large]
    if small:
        groups += [("**all but the small**", large), *((name, [name]) for name in small)]
        groups += [("**small organs**", small)]
    rows = [["class", *results.arms]]
    for title, classes in groups:
        rows.append([title, *(number_text(results.dice(arm, None, classes)) for arm in results.arms)])
    return markdown_table(rows)


def missing_table(results: Results, reference: Results, site: str, organ: str) -> str:
    """What each arm reaches for the organ at the site that does not contour it."""
    best = reference.dice(reference.individual or "", site, [organ])
    rows = [["arm", f"Dice of {organ} at {site}", "share of the reference", f"Dice of {organ} elsewhere"]]
    for name in results.arms:
        here = results.dice(name, site, [organ])
        there = [results.dice(name, other, [organ]) for other in results.sites if other != site]
        mean = sum(there) / len(there) if there else math.nan
        rows.append(
            [
                name,
                number_text(here),
                number_text(here / best if best else math.nan, "{:.0%}"),
                number_text(mean),
            ]
        )
    rows.append([f"reference: individual, {site} with all contours", number_text(best), "100%", "-"])
    return (
        f"{markdown_table(rows)}\nThe target was a share of at least 80 %; stock nnU-Net (individual) learns "
        f"the organ as background at {site}.\n"
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
    told = ("datasets", "trainers", "seed", "device", *(() if recipe.get("split") else OF_SPLIT))
    settings = ", ".join(
        f"{name} {'x'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in recipe.items()
        if value not in (None, [], "") and name not in told
    )
    asked = dict.fromkeys(words for run in runs for words in run.record["recipe"]["trainers"])
    arms = "".join(f"- `{words}`\n" for words in asked)
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


def notes_below(target: Path) -> str:
    """What people wrote below `NOTES` on the page that is there, or nothing."""
    text = target.read_text() if target.exists() else ""
    return f"\n{text[text.index(NOTES) :]}" if NOTES in text else ""
