"""Turn somebody's trained model into a starting point that is safe to give to -pretrained_weights.

The file is read as numbers only (nothing in it can run), compared with the network of your plans, and
written anew. Give every site the same file, and compare the digest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_gml.commands.options import add_plans_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml import``."""
    parser.add_argument(
        "source", type=Path, metavar="FILE", help="a zip of nnU-Net's, or a checkpoint (.pth)"
    )
    parser.add_argument(
        "--for", dest="planned", nargs=2, required=True, metavar=("DATASET", "CONFIGURATION"), help="to train"
    )
    add_plans_name(parser)
    parser.add_argument("--fold", help="which fold of a zip (default: the first)")
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="START.pth", help="a new file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, write, and say how to use it."""
    from nnunet_gml.handover.starting_point import write_starting_point
    from nnunet_gml.planning.planned import planned

    dataset, configuration = args.planned
    plan = planned(dataset, configuration, args.plans)
    start = write_starting_point(args.source, args.target, plan, args.fold)
    taken = f" of {start.source}" if start.source else ""
    print(f"written: {args.target}, {start.tensors} tensors{taken}; the segmentation layers begin anew")
    print(f"digest of the weights: {start.digest}   (the same at every site?)")
    print("at every site, for the first training only:")
    print(
        f"  nnUNetv2_train {dataset} {configuration} FOLD -p {args.plans} -tr nnUNetTrainerGML "
        f"-pretrained_weights {args.target}"
    )
    return 0
