"""The plans all sites share: network, spacing, normalisation, names of channels and labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from peer_sync.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of ``nnunet-gml plans``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    digest = commands.add_parser("digest", help="print the plans digest that federation.toml needs")
    digest.add_argument("preprocessed", type=Path, help="folder nnUNet_preprocessed/DATASET")
    digest.add_argument("configuration", help="such as 3d_fullres")
    digest.add_argument(
        "-p", dest="plans", default="nnUNetPlans", help="plans identifier (default: %(default)s)"
    )
    digest.add_argument(
        "--by-name", action="store_true", help="for a federation.toml with classes: label numbers may differ"
    )
    digest.set_defaults(run=_digest)


def _digest(args: argparse.Namespace) -> int:
    from nnunet_gml.plans import plans_digest

    plans, dataset = (_read_json(args.preprocessed / name) for name in (f"{args.plans}.json", "dataset.json"))
    print(plans_digest(plans, dataset, args.configuration, args.by_name))
    return 0


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "plan with nnU-Net first") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", "write it again with nnU-Net") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, but expected a JSON object")
    return content
