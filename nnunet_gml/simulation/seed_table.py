"""Tables over several seeds of one simulation, as Markdown."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_gml import stats
from nnunet_gml.markdown import markdown_table
from nnunet_gml.simulation.scores import number_text
from nnunet_gml.simulation.several import Comparison, Results, read_runs


def write_seed_table(out: Path, seeds: Sequence[int]) -> str:
    """Write and return OUT/table.md from the runs OUT/seed-SEED that have results.

    Raises:
        ConfigError: they were not made alike.
    """
    results = Results(read_runs((seed, run_folder(out, seed)) for seed in seeds))
    if not results.runs:
        return ""
    head = (
        "Mean Dice over held-out cases and classes, over seeds. Gains are paired by case; intervals are "
        "bootstrapped over patients; p: Wilcoxon's signed ranks over patients, Holm's correction over arms. "
        f"Command: `{shlex.join(sys.argv)}`"
    )
    (out / "table.md").write_text(f"{head}\n\n{arm_table(results)}\n{rounds_sentence(results)}")
    return arm_table(results)


def run_folder(out: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return out / f"seed-{seed}"


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
                number_text(results.dice(name)),
                *(number_text(results.dice(name, site)) for site in results.sites),
                gain_text(gain),
                stats.p_text(corrected.get(name, math.nan)),
                f"{number_text(worst[1], '{:+.4f}')} {worst[0]}".strip(),
                *_bytes(results, name),
                number_text(results.training_seconds(name) / 60, "{:.1f}"),
                ", ".join(map(str, results.seeds(name))) or "none",
            ]
        )
    return markdown_table(rows)


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
    return number_text(moved / 1e6, "{:.1f}"), number_text(share, "{:.0%}"), number_text(by_server, "{:.0%}")


def gain_text(found: Comparison | None) -> str:
    """A gain with its interval; a dash where there is none."""
    if found is None or math.isnan(found.gain):
        return "-"
    low, high = found.interval
    return f"{found.gain:+.4f} [{number_text(low, '{:+.4f}')}, {number_text(high, '{:+.4f}')}]"
