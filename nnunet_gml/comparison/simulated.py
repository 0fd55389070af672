"""The run folders of ``nnunet-gml simulate``: every arm's predictions at every site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_gml.comparison.predicted import FORMS, Predicted
from nnunet_gml.json_files import read_json
from nnunet_gml.simulation.commands import fold_folder
from nnunet_gml.simulation.recipe import DEFAULTS, Arm, Recipe
from nnunet_gml.simulation.scores import patients_of
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError


def simulated(out: Path) -> list[Predicted]:
    """Own networks first, then those of one site on the cases of another (``predictions/ARM@SITE``).

    Raises:
        ConfigError: run.json is not of a simulation, or a raw dataset is not where it says.
    """
    record = read_json(out / "run.json", FORMS)
    if not {"recipe", "sites"} <= record.keys():
        raise ConfigError(f"{out / 'run.json'} is not of a simulation that has begun", FORMS)
    written = {**DEFAULTS, **record["recipe"]}
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()}
    recipe = Recipe(**settings)
    sites = [SiteSpace(name, Path(raw), out / "sites" / name) for name, raw in record["sites"].items()]
    arms = recipe.arms
    own = [(site, arm, site) for site in sites for arm in arms]
    crossed = [(site, arm, other) for site in sites for arm in arms for other in sites if other != site]
    return [each for names in own + crossed for each in _of_simulated(recipe, *names)]


def _of_simulated(recipe: Recipe, site: SiteSpace, arm: Arm, trained_at: SiteSpace) -> Iterator[Predicted]:
    """One, or none unless exactly the held-out cases are predicted: half a prediction is no result."""
    is_own = trained_at == site
    predictions = site.predictions(arm.name if is_own else f"{arm.name}@{trained_at.name}")
    if not predictions.is_dir():
        return
    training, mail = fold_folder(site, recipe, arm.name), site.mail(arm.name)
    found = Predicted(
        site=site.name,
        arm=arm.name,
        predictions=predictions,
        references=site.raw / "labelsTs",
        dataset=read_json(site.raw / "dataset.json", "run.json names the raw dataset: put it back there"),
        training=training if is_own and training.is_dir() else None,
        mail=mail if is_own and mail.is_dir() else None,
        images=site.raw / "imagesTs",
        patients=patients_of(site.raw),
        trained_at=trained_at.name,
        is_stock=arm.is_individual,
    )
    if found.cases == replace(found, predictions=found.references).cases:
        yield found
