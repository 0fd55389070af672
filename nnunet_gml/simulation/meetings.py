"""Whether an arm had the peers that it was meant to have: rounds due against rounds with a peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_gml.explanation import read_records
from nnunet_gml.simulation.commands import fold_folder
from nnunet_gml.simulation.recipe import Arm, Recipe
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.gossip import round_number

WITH_PEER = ("met", "averaged")
"""Events of the list of rounds that say that a peer's weights were there in time."""


def rounds_of(
    sites: Sequence[SiteSpace], arms: Sequence[Arm], recipe: Recipe, trained: Mapping[str, Any]
) -> dict[str, Any]:
    """Per arm with exchange: the rounds due, and per site the numbers of those without a peer.

    In lock-step that is a round in which any other site was missing. A site that has not finished
    has null. Arms whose settings nobody wrote down are left out.

    Args:
        trained: of run.json, see `nnunet_gml.simulation.record`.
    """
    counted = {}
    for arm in arms:
        settings = trained.get(arm.name, {}).get("settings", {})
        if "in_lock_step" not in settings:  # an attribute of every trainer that exchanges
            continue
        due = round_number(recipe.epochs - 1, settings["warmup_epochs"], settings["epochs_per_round"])
        peers = len(sites) - 1 if settings["in_lock_step"] else 1
        folders = {site.name: fold_folder(site, recipe, arm.name) for site in sites}
        counted[arm.name] = {
            "due": due,
            "without_peer": {name: _without_peer(folder, due, peers) for name, folder in folders.items()},
        }
    return counted


def _without_peer(fold: Path, due: int, peers: int) -> list[int] | None:
    if not (fold / "checkpoint_final.pth").exists():
        return None
    here: dict[int, set[str]] = {}
    for record in read_records(fold):
        if record.get("event") in WITH_PEER:
            here.setdefault(record["round"], set()).add(record["peer"])
    return [number for number in range(1, due + 1) if len(here.get(number, ())) < peers]
