"""Options that several commands have."""

from __future__ import annotations

import argparse
from datetime import timedelta

from nnunet_gml.commands.named_site import add_named_site


def add_plans_name(parser: argparse.ArgumentParser) -> None:
    """Declare ``-p``."""
    parser.add_argument(
        "-p", dest="plans", default="nnUNetPlans", help="plans identifier (default: %(default)s)"
    )


def add_site_and_dataset(parser: argparse.ArgumentParser) -> None:
    """Declare the site's file, which may be left out, and the dataset, as words without a dash."""
    add_named_site(parser)
    parser.add_argument("dataset", metavar="DATASET", help="nnU-Net's name or number of the dataset")


def age(text: str) -> timedelta:
    """A type of option: 90m, 12h, 2d. Raises `argparse.ArgumentTypeError`."""
    from peer_sync.ages import parse_age

    try:
        return parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
