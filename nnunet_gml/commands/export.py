"""Write trained folds as the zip that nnU-Net installs, with a model card; nothing in it names a case.

Only what nnU-Net's prediction reads goes into the zip: weights, plans, channels and labels. Beside them
MODEL_CARD.md and model_card.json say which sites took part, in how many rounds, under which federation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_gml.commands.named_site import add_site, named_site_if_any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml export``."""
    parser.add_argument("folds", nargs="+", type=Path, metavar="RUN_FOLD", help="output folder of a fold")
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="FILE.zip", help="a new file")
    add_site(parser)
    parser.add_argument("--no-dice", action="store_true", help="leave Dice of the validation out of the card")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the zip, and show its card."""
    from nnunet_gml.handover.sharing import export

    site = named_site_if_any(args.site)
    with_dice = not args.no_dice and (site is None or site.share_dice)
    card = export([fold.resolve() for fold in args.folds], args.target, site, with_dice)
    print(card.to_markdown())
    print(f"written: {args.target}, {args.target.stat().st_size / 2**20:.0f} MiB")
    return 0
