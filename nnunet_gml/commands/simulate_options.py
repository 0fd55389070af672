"""The options of `nnunet-gml simulate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunet_gml.simulation.recipe import ASYNCHRONOUS, CLOCKS, OPTIMIZERS, SGD

DEFAULT_SEED = 20261121


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml simulate``."""
    parser.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        metavar="RAW_DATASET",
        help="folder of a raw dataset (DatasetXXX_Name) with held-out cases; one per site, or one to --split",
    )
    _add_arm_arguments(parser)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=250, help="per epoch (default: 250)")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=DEFAULT_SEED)
    seeds.add_argument(
        "--seeds", type=int, nargs="+", help="one run for each, OUT/seed-N, and a table over all of them"
    )
    _add_network_arguments(parser)
    _add_training_arguments(parser)
    _add_data_arguments(parser)
    _add_split_arguments(parser)
    _add_trouble_arguments(parser)
    _add_launcher_arguments(parser)
    add_run_arguments(parser)


def _add_arm_arguments(parser: argparse.ArgumentParser) -> None:
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


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--learning-rate", type=float, help="initial one, for all trainers alike")
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default=SGD,
        help="for all trainers alike; adam is that of nnU-Net's nnUNetTrainerAdam (default: %(default)s)",
    )
    parser.add_argument("--warmup-epochs", type=int, help="epochs before the first exchange")
    parser.add_argument("--epochs-per-round", type=int, help="epochs from one exchange to the next")
    parser.add_argument("--mutual-epochs", type=int, help="epochs with a peer in each round")


def _add_split_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several sites from one raw dataset, grouped by patient")
    group.add_argument(
        "--split",
        default="",
        metavar="HOW",
        help="by-column=COLUMN (of the table), dirichlet=ALPHA (sites of different sizes), "
        "dirichlet-labels=ALPHA (sites that see different classes), or random",
    )
    group.add_argument("--sites", type=int, help="how many; with by-column, each value is a site")
    group.add_argument(
        "--held-out",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="of each site's patients (default: 0.25)",
    )
    group.add_argument(
        "--table",
        type=Path,
        metavar="CSV",
        help="columns case, patient, and others (default: patients.csv in the raw dataset)",
    )


def _add_trouble_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what makes a site unlike the others, or fails there")
    group.add_argument(
        "--shift",
        action="append",
        default=[],
        dest="shifts",
        metavar="SITE=NAME=VALUE[,NAME=VALUE...]",
        help="scanner and contours of a site: blur_mm, noise, gain, offset, bias (an image's standard "
        "deviation is 1), margin_mm, smoothing_mm",
    )
    group.add_argument(
        "--fault",
        action="append",
        default=[],
        dest="faults",
        metavar="SITE=KIND:FIRST[-LAST]",
        help="rounds in which a site is `away`, or offers `garbage` (bytes changed after signing) or `noise` "
        "(random weights, rightly signed)",
    )
    group.add_argument(
        "--clock",
        choices=CLOCKS,
        default=ASYNCHRONOUS,
        help="lock-step: gossip, too, waits in each round for the peer's weights of that round",
    )


def _add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("more machines, which share the run folder")
    group.add_argument(
        "--launcher",
        choices=("slurm", "local"),
        help="submit every job through submitit; `local` runs them here, to try it out; sites then read each "
        "other's outbox in the run folder",
    )
    group.add_argument(
        "--launcher-option",
        action="append",
        default=[],
        dest="launcher_options",
        metavar="NAME=VALUE",
        help="of submitit, such as timeout_min=720, gpus_per_node=1, slurm_partition=gpu",
    )


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
        "--side-by-side",
        type=int,
        metavar="N",
        help="so many trainings at once in arms without exchange, where memory is short (default: all sites)",
    )
    parser.add_argument(
        "--continue",
        action="store_true",
        dest="continued",
        help="take up an interrupted run of the same command",
    )
