"""What run.json says of a run beside its recipe: versions, machines, what each arm was trained with."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_gml import __version__
from nnunet_gml.settings import Value, settings_of
from nnunet_gml.simulation.arms import chosen_settings, is_stock, trainer_class
from nnunet_gml.simulation.commands import has_checkpoint
from nnunet_gml.simulation.recipe import Arm, Recipe, parse_arm
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError

PACKAGES = ("nnunetv2", "torch", "numpy", "SimpleITK")


def facts_of_call(recipe: Recipe, sites: Sequence[SiteSpace], threads: int) -> dict[str, Any]:
    """Command, versions and what else each call of the run writes anew."""
    return {
        "command": shlex.join(sys.argv),
        "versions": {
            "nnunet-gml": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "seed": recipe.seed,
        "sites": {site.name: str(site.raw) for site in sites},
        "threads_per_training": threads,
        "prediction": "without mirroring (--disable_tta), for all trainers alike",
    }


def this_machine() -> dict[str, Any]:
    """What the processor calls itself (its architecture where it does not say), and CPU cores."""
    listing = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", listing.read_text()) if listing.exists() else None
    return {"processor": found.group(1) if found else platform.machine(), "cores": os.cpu_count()}


def settings_of_arm(arm: Arm, recipe: Recipe) -> dict[str, Value]:
    """The class attributes that an arm is trained with: its trainer's, the run's, its own; empty for stock.

    Imports the trainer, and so torch, if it is not nnU-Net's own.
    """
    settings = settings_of(trainer_class(arm.trainer))
    return settings | chosen_settings(arm, recipe, is_stock(arm.trainer))


def note_training(record: dict[str, Any], arm: Arm, recipe: Recipe, places: Sequence[SiteSpace]) -> None:
    """Write into ``record["trained"]`` with what an arm is trained, when that begins, and each machine.

    Of an arm that has a checkpoint, but no entry (its run is older than this record), nothing is known.
    """
    trained = record.setdefault("trained", {})
    if not any(has_checkpoint(place, recipe, arm.name) for place in places):
        settings = settings_of_arm(arm, recipe)
        trained[arm.name] = {"version": __version__, "settings": settings, "machines": []}
    machine = this_machine()
    if arm.name in trained and machine not in trained[arm.name]["machines"]:
        trained[arm.name]["machines"].append(machine)


def check_trained(record: dict[str, Any], recipe: Recipe, sites: Sequence[SiteSpace]) -> None:
    """Make sure that no arm with a checkpoint was trained with other settings than it would be now.

    Also of arms that this call does not ask for: they stand in the same table.

    Raises:
        ConfigError: one was; it names the arm, the settings, and the version that trained it.
    """
    for arm in map(parse_arm, record["recipe"]["trainers"]):
        then = record.get("trained", {}).get(arm.name)
        if then is None or not any(has_checkpoint(site, recipe, arm.name) for site in sites):
            continue
        before, now = then["settings"], settings_of_arm(arm, recipe)
        changed = [
            f"{name} {before.get(name)!r} (now {now.get(name)!r})"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise ConfigError(
                f"the arm {arm.name} was trained by nnunet-gml {then['version']} with {', '.join(changed)}",
                "give another --out, or use that version",
            )
