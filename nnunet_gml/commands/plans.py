"""The plans all sites share: network, spacing, normalisation, names of channels and labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_gml.commands import plans_pool, plans_sharing
from nnunet_gml.commands.options import add_plans_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of ``nnunet-gml plans``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, text in (
        ("digest", _add_digest, "print the plans digest that federation.toml needs"),
        ("pool", plans_pool.add_arguments, "plan together, from summaries of all sites' images"),
        ("offer", plans_sharing.add_offer, "publish this site's plans, for others to adopt"),
        ("adopt", plans_sharing.add_adopt, "take another site's plans, and preprocess with them"),
        ("compare", plans_sharing.add_compare, "show in what the plans that others have published differ"),
    ):
        add(commands.add_parser(name, help=text, description=text.capitalize() + "."))


def _add_digest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preprocessed", type=Path, help="folder nnUNet_preprocessed/DATASET")
    parser.add_argument("configuration", help="such as 3d_fullres")
    add_plans_name(parser)
    parser.add_argument(
        "--by-name", action="store_true", help="for a federation.toml with classes: label numbers may differ"
    )
    parser.set_defaults(run=_digest)


def _digest(args: argparse.Namespace) -> int:
    from nnunet_gml.json_files import read_json
    from nnunet_gml.planning.planned import PLAN_FIRST
    from nnunet_gml.planning.plans import plans_digest

    plans, dataset = (
        read_json(args.preprocessed / name, PLAN_FIRST) for name in (f"{args.plans}.json", "dataset.json")
    )
    print(plans_digest(plans, dataset, args.configuration, args.by_name))
    return 0
