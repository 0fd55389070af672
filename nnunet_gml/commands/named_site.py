"""The site that a command is about: named on the command line, or by the variable nnUNet_gml_site."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peer_sync.site import Site


def add_site(parser: argparse.ArgumentParser) -> None:
    """Declare ``--site``."""
    parser.add_argument(
        "--site", type=Path, metavar="SITE_TOML", help="this site's file (default: $nnUNet_gml_site)"
    )


def add_named_site(parser: argparse.ArgumentParser) -> None:
    """Declare the same as a word without a dash, which may be left out."""
    parser.add_argument(
        "site",
        nargs="?",
        type=Path,
        metavar="SITE_TOML",
        help="this site's file (default: $nnUNet_gml_site)",
    )


def named_site(path: Path | None) -> Site:
    """The site. Raises `ConfigError`, also where none is named."""
    from peer_sync.site import load_site, site_from_environment

    return site_from_environment() if path is None else load_site(path)


def named_site_if_any(path: Path | None) -> Site | None:
    """The same; None where none is named."""
    from peer_sync.site import SITE_VARIABLE

    return named_site(path) if path is not None or os.environ.get(SITE_VARIABLE) else None
