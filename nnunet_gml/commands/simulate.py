"""`nnunet-gml simulate`: several sites on this machine, through nnU-Net's own commands.

Each site is what it would be in practice: own folders, own keys, own process of
``nnUNetv2_train``; only the distance between them is missing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_gml.commands import simulate_options
from nnunet_gml.simulation.datasets import raw_datasets
from nnunet_gml.simulation.faults import parse_faults
from nnunet_gml.simulation.processes import Here, Launcher
from nnunet_gml.simulation.recipe import Recipe, claim
from nnunet_gml.simulation.steps import Simulation
from nnunet_gml.simulation.workspace import read_sites

AS_THEY_ARE = (
    "epochs",
    "iterations",
    "seed",
    "device",
    "configuration",
    "fold",
    "batch_size",
    "learning_rate",
    "optimizer",
    "warmup_epochs",
    "epochs_per_round",
    "mutual_epochs",
    "mirroring",
    "foreground",
    "split",
    "sites",
    "held_out",
    "clock",
)
"""Options that are settings of the recipe by their own names."""
MANY = 10_000
"""Jobs at once: how many really run is the cluster's matter."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml simulate``."""
    simulate_options.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the simulation that the options describe, once for each seed; 1 if a site did not finish."""
    recipe, out = recipe_of(args), args.out.resolve()
    jobs = MANY if args.launcher == "slurm" else args.jobs
    how = {"jobs": jobs, "continued": args.continued, "side_by_side": args.side_by_side}
    if not args.seeds:
        return simulate(recipe, out, launcher=_launcher(args, out), **how)
    from nnunet_gml.simulation.seed_table import run_folder, write_seed_table

    seeds, codes = list(dict.fromkeys(args.seeds)), []
    for seed in seeds:
        folder = run_folder(out, seed)
        print(f"seed {seed}: {folder}")
        codes.append(simulate(replace(recipe, seed=seed), folder, launcher=_launcher(args, folder), **how))
        table = write_seed_table(out, seeds)
    print(table)
    return max(codes)


def _launcher(args: argparse.Namespace, out: Path) -> Launcher:
    if not args.launcher:
        return Here()
    from nnunet_gml.simulation.launchers import Cluster, parse_options

    return Cluster(out / "jobs", args.launcher, parse_options(args.launcher_options))


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the options describe."""
    options: dict[str, Any] = {name: getattr(args, name) for name in AS_THEY_ARE}
    for name in ("patch_size", "features", "spacing"):
        options[name] = tuple(getattr(args, name) or ()) or None
    for name in ("unlabelled", "shifts", "faults"):
        options[name] = tuple(getattr(args, name))
    return Recipe(
        datasets=tuple(str(path.resolve()) for path in args.datasets),
        trainers=tuple(dict.fromkeys(args.trainers or ["nnUNetTrainerGML"])),
        table=str(args.table.resolve()) if args.table else "",
        by_folder=bool(args.launcher),
        **options,
    )


def simulate(
    recipe: Recipe,
    out: Path,
    jobs: int = 2,
    continued: bool = False,
    launcher: Launcher | None = None,
    side_by_side: int | None = None,
) -> int:
    """Run every step that is not done yet, and write results.csv, table.md and run.json.

    Returns:
        0, or 1 if a site's training or prediction failed: the results are those of the others.

    Raises:
        ConfigError: the raw datasets, the run folder or the arms do not allow the run.
    """
    out = out.resolve()
    record = claim(out, recipe, continued)
    parse_faults(recipe.faults)
    sites = read_sites(raw_datasets(recipe, out), out)
    if recipe.split:
        print((out / "raw-split" / "sites.md").read_text())
    return Simulation(recipe, out, sites, jobs, record, launcher or Here(), side_by_side).run()
