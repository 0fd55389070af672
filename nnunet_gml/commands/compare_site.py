"""The site of a federation at which runs are compared: its courier knows what the runs do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import named_site_if_any
from nnunet_gml.explanation import ROUNDS_FILE

if TYPE_CHECKING:
    from nnunet_gml.comparison.predicted import Predicted
    from peer_sync.site import Site


def site_of(path: Path | None, predicted: Sequence[Predicted]) -> Site | None:
    """The site that is named; that of nnUNet_gml_site only where a training that is no simulation met peers.

    Raises:
        ConfigError: its file cannot be used.
    """
    return named_site_if_any(path) if path or _met_peers(predicted) else None


def at_site(predicted: Sequence[Predicted], site: Site | None) -> list[Predicted]:
    """The same, with the courier's folder for the one training that met peers.

    Where several did, none gets it: the ledger does not say which line is of which training.
    """
    met = _met_peers(predicted)
    if site is None or len(met) != 1:
        return list(predicted)
    return [replace(each, mail=site.folder) if each is met[0] else each for each in predicted]


def _met_peers(predicted: Sequence[Predicted]) -> list[Predicted]:
    """Trainings with a list of rounds whose courier's folder is not known: a simulation's is."""
    return [each for each in predicted if not each.mail and each.training and _has_rounds(each.training)]


def _has_rounds(fold: Path) -> bool:
    return (fold / ROUNDS_FILE).exists()
