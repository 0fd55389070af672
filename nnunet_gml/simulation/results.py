"""What a simulation leaves behind for its readers: results.csv, table.md, and bytes in run.json."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.meetings import rounds_of
from nnunet_gml.simulation.recipe import ENSEMBLE, POOLED, Arm, Recipe, parse_arm
from nnunet_gml.simulation.scores import Table, bytes_collected, evaluate, write_scores
from nnunet_gml.simulation.workspace import PLANS, SiteSpace

NOTES = {
    ENSEMBLE: "ensemble: probabilities of all sites' individual models, averaged by nnUNetv2_ensemble; "
    "MB: every model (float16) moved once to every other site.",
    POOLED: "pooled: stock nnU-Net on all sites' training cases in one place, as many iterations in all "
    "as one site alone.",
}


def write_results(out: Path, sites: Sequence[SiteSpace], recipe: Recipe, record: dict[str, Any]) -> Table:
    """Score every arm of the run that has predictions, now or from an earlier call, and write all files.

    ``record``, the content of run.json, gets ``moved_bytes``, per arm and site, null where not countable,
    and ``rounds``, see `rounds_of`.
    """
    arms = tuple(parse_arm(words) for words in record["recipe"]["trainers"])
    scores = [score for site in sites for arm in arms for score in evaluate(site, arm.name)]
    write_scores(out / "results.csv", scores)
    moved = {(s.name, a.name): moved_bytes(s, a, recipe, len(sites)) for a in arms for s in sites}
    record["moved_bytes"] = {a.name: {s.name: moved[s.name, a.name] for s in sites} for a in arms}
    record["rounds"] = rounds_of(sites, arms, recipe, record.get("trained", {}))
    counted = {key: count for key, count in moved.items() if count is not None}
    table = Table(tuple(site.name for site in sites), arms, tuple(scores), counted)
    head = f"Mean Dice over held-out cases and classes. Command: `{shlex.join(sys.argv)}`"
    notes = "".join(f"\n{NOTES[arm.name]}\n" for arm in arms if arm.name in NOTES)
    (out / "table.md").write_text(f"{head}\n\n{table.markdown()}{notes}")
    return table


def moved_bytes(site: SiteSpace, arm: Arm, recipe: Recipe, sites: int) -> int | None:
    """Bytes that one site has taken in for one arm; None for pooling, which moves images.

    Counted from the ledger of its exchanges; of an ensemble: one file of weights from each other site.
    """
    if arm.name == POOLED:
        return None
    if arm.name == ENSEMBLE:
        return (sites - 1) * network_bytes(site, recipe)
    return bytes_collected(site.mail(arm.name)) if arm.exchanges else 0


def network_bytes(site: SiteSpace, recipe: Recipe) -> int:
    """Size of the file that the courier would make of a site's network, in float16, its default."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_gml.weights import payload_bytes

    dataset = raw_description(site.raw)
    plans = PlansManager(json.loads((site.preprocessed / f"{PLANS}.json").read_text()))
    network = nnUNetTrainer.build_network_architecture(
        plans,
        plans.get_configuration(recipe.trained_configuration()),
        len(dataset["channel_names"]),
        plans.get_label_manager(dataset).num_segmentation_heads,
        True,
    )
    return payload_bytes(network)["float16"]
