"""Print the folder with our trainers, for nnU-Net's variable nnUNet_extTrainer."""

from __future__ import annotations

import argparse

from nnunet_gml.installed import trainers_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml trainers``."""
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print it."""
    print(trainers_folder())
    return 0
