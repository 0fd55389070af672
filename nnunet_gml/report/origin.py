"""How the report was made: command, versions, seeds, settings, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nnunet_gml.report.blocks import Facts, Section, number
from nnunet_gml.report.study import Study
from nnunet_gml.versions import installed_versions

SETTINGS = (
    "configuration",
    "fold",
    "epochs",
    "iterations",
    "warmup_epochs",
    "epochs_per_round",
    "mutual_epochs",
    "patch_size",
    "features",
    "batch_size",
    "spacing",
    "learning_rate",
    "device",
    "unlabelled",
)


def origin(study: Study) -> Section:
    """What somebody needs to make it again, and what the numbers do not say."""
    lead = (
        "Dice and NSD: 1 is perfect. HD95: the distance that 95 % of the surface keep within, in mm. An "
        "organ that neither contour has is left out of every mean."
    )
    blocks: list[Facts] = [Facts("This report", _own(study))]
    blocks += [Facts("The runs", pairs)] if (pairs := _run(study)) else []
    if study.summary.tolerance_mm:
        blocks.append(_tolerances(study.summary.tolerance_mm))
    if study.summary.notes:
        blocks.append(Facts("What was absent or left out", [("", note) for note in study.summary.notes]))
    return Section("made", "How it was made", lead, blocks)


def _tolerances(tolerance_mm: Mapping[str, float]) -> Facts:
    by_value: dict[float, list[str]] = {}
    for name, value in tolerance_mm.items():
        by_value.setdefault(value, []).append(name)
    pairs = [(f"{number(value, 1)} mm", ", ".join(names)) for value, names in by_value.items()]
    return Facts("Tolerance of NSD", pairs)


def _own(study: Study) -> list[tuple[str, str]]:
    counted = study.scores.groupby(["site", "case"]).ngroups
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    return [
        ("command", study.command),
        ("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC with {versions}"),
        ("compared", f"{len(study.sites)} sites, {len(study.arms)} methods, {counted} cases"),
        ("organs", ", ".join(study.classes)),
        ("baseline", study.baseline),
        ("looked at closely", study.focus),
    ]


def _run(study: Study) -> list[tuple[str, str]]:
    """What a simulation wrote down about itself; nothing for other runs."""
    record = study.record
    if not record:
        return []
    pairs = [("kind", "simulation: all sites on one machine; simulated sites are not hospitals")]
    pairs += [
        (name, _words(record[name]))
        for name in ("command", "seed", "started", "versions", "prediction")
        if name in record
    ]
    recipe: dict[str, Any] = record.get("recipe") or {}
    pairs += [("methods", _words(recipe.get("trainers")))] if recipe.get("trainers") else []
    settings = {name: recipe[name] for name in SETTINGS if recipe.get(name) not in (None, [], "")}
    return [*pairs, ("settings", _words(settings))]


def _words(value: Any) -> str:  # noqa: ANN401 - JSON values
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return (
            ", ".join(map(str, value))
            if any(isinstance(each, str) for each in value)
            else " \N{MULTIPLICATION SIGN} ".join(map(str, value))
        )
    return str(value)
