"""`nnunet-gml simulate`: several sites on this machine, through nnU-Net's own commands.

Each site is what it would be in practice: own folders, own keys, own process of
``nnUNetv2_train``; only the distance between them is missing.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from nnunet_gml.simulation.recipe import Recipe, claim
from nnunet_gml.simulation.steps import Simulation
from nnunet_gml.simulation.workspace import read_sites

DEFAULT_SEED = 20261121


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml simulate``."""
    parser.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        metavar="RAW_DATASET",
        help="folder of a raw dataset (DatasetXXX_Name) with held-out cases; one per site",
    )
    parser.add_argument(
        "--trainer",
        action="append",
        dest="trainers",
        metavar="NAME",
        help="trainer to run; repeat it to compare (default: nnUNetTrainerGML)",
    )
    parser.add_argument(
        "--arm",
        action="append",
        dest="trainers",
        metavar="NAME=TRAINER[,ATTRIBUTE=VALUE...]",
        help="the same with a name of its own and other class attributes; `ensemble` averages all "
        "individual models' probabilities, `pooled` trains stock nnU-Net on all sites' cases in one place",
    )
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=250, help="per epoch (default: 250)")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    _add_network_arguments(parser)
    parser.add_argument("--learning-rate", type=float, help="initial one, for all trainers alike")
    parser.add_argument("--warmup-epochs", type=int, help="epochs before the first exchange")
    parser.add_argument("--epochs-per-round", type=int, help="epochs from one exchange to the next")
    parser.add_argument("--mutual-epochs", type=int, help="epochs with a peer in each round")
    _add_data_arguments(parser)
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unlabelled",
        action="append",
        default=[],
        metavar="SITE=ORGAN[,ORGAN]",
        help="organs that a site's training labels lack; its held-out labels keep them",
    )
    parser.add_argument(
        "--no-mirroring",
        action="store_false",
        dest="mirroring",
        help="train every arm without mirroring, so that left and right can be two classes",
    )
    parser.add_argument(
        "--foreground",
        type=float,
        metavar="SHARE",
        help="part of each batch's patches that lie around a labelled voxel (nnU-Net's own: 0.33)",
    )


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--patch-size", type=int, nargs="+", help="voxels; makes a smaller configuration")
    parser.add_argument(
        "--features", type=int, nargs="+", help="per stage, three stages at least; makes a smaller network"
    )
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--spacing", type=float, nargs="+", help="mm; resample to this spacing")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that change no result."""
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="processes at once while preparing and predicting; training: one per site",
    )
    parser.add_argument(
        "--continue",
        action="store_true",
        dest="continued",
        help="take up an interrupted run of the same command",
    )


def run(args: argparse.Namespace) -> int:
    """Run the simulation that the options describe; 1 if a site did not finish."""
    return simulate(recipe_of(args), args.out, args.jobs, args.continued)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the options describe."""
    trainers = tuple(dict.fromkeys(args.trainers or ["nnUNetTrainerGML"]))
    names = (
        "epochs",
        "iterations",
        "seed",
        "device",
        "configuration",
        "fold",
        "batch_size",
        "learning_rate",
        "warmup_epochs",
        "epochs_per_round",
        "mutual_epochs",
        "mirroring",
        "foreground",
    )
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    for name in ("patch_size", "features", "spacing"):
        options[name] = tuple(getattr(args, name) or ()) or None
    datasets = tuple(str(path.resolve()) for path in args.datasets)
    return Recipe(datasets=datasets, trainers=trainers, unlabelled=tuple(args.unlabelled), **options)


def simulate(recipe: Recipe, out: Path, jobs: int = 2, continued: bool = False) -> int:
    """Run every step that is not done yet, and write results.csv, table.md and run.json.

    Returns:
        0, or 1 if a site's training or prediction failed: the results are those of the others.

    Raises:
        ConfigError: the raw datasets, the run folder or the arms do not allow the run.
    """
    out = out.resolve()
    sites = read_sites(recipe.datasets, out)
    record = claim(out, recipe, continued)
    return Simulation(recipe, out, sites, jobs, record).run()
