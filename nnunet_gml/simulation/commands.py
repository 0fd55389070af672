"""nnU-Net's own commands, as the jobs of one site."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_gml.installed import command
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.arms import class_name
from nnunet_gml.simulation.processes import Job
from nnunet_gml.simulation.recipe import ENSEMBLE, Recipe
from nnunet_gml.simulation.workspace import PLANS, SiteSpace


def fingerprint(site: SiteSpace, generated: Path) -> Job:
    """Look at the training cases."""
    words = (command("nnUNetv2_extract_fingerprint"), "-d", site.dataset_id, "-np", "1", "--no_pbar")
    return _job(site, "fingerprint", words, site.variables(generated))


def plan(site: SiteSpace, generated: Path) -> Job:
    """Plan network and preprocessing from this site's fingerprint."""
    words = (command("nnUNetv2_plan_experiment"), "-d", site.dataset_id)
    return _job(site, "plan", words, site.variables(generated))


def preprocess(site: SiteSpace, generated: Path, recipe: Recipe) -> Job:
    """Preprocess the training cases by the shared plans."""
    words = (command("nnUNetv2_preprocess"), "-d", site.dataset_id, "-c", recipe.trained_configuration())
    return _job(site, "preprocess", (*words, "-np", "1", "--no_pbar"), site.variables(generated))


def train(site: SiteSpace, generated: Path, recipe: Recipe, arm: str) -> Job:
    """Train one arm; from its checkpoint, if an earlier run has left one."""
    fold = fold_folder(site, recipe, arm)
    words = (
        command("nnUNetv2_train"),
        site.dataset,
        recipe.trained_configuration(),
        recipe.fold,
        "-tr",
        class_name(arm),
        "-device",
        recipe.device,
    )
    resumed = ("--c",) if has_checkpoint(site, recipe, arm) else ()
    variables = {
        **site.variables(generated),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_gml_site": str(site.site_file(arm)),
    }
    return Job(
        site.name, (*words, *resumed), variables, site.log(f"train-{arm}"), fold / "checkpoint_final.pth"
    )


def fold_folder(site: SiteSpace, recipe: Recipe, arm: str) -> Path:
    """Where nnU-Net puts the checkpoints and logs of one arm's training."""
    return site.model(class_name(arm), recipe) / f"fold_{recipe.fold}"


def has_checkpoint(site: SiteSpace, recipe: Recipe, arm: str) -> bool:
    """Whether an earlier training of this arm has left something to go on from."""
    return any(fold_folder(site, recipe, arm).glob("checkpoint_*.pth"))


def predict(
    site: SiteSpace, generated: Path, recipe: Recipe, arm: str, model_of: SiteSpace | None = None
) -> Job:
    """Predict a site's held-out cases with its own network of one arm, or with that of ``model_of``.

    Without mirroring: on a CPU that is eight times as fast.
    """
    words = _predict_words(site, model_of or site, recipe, arm, site.predictions(arm))
    return _job(site, f"predict-{arm}", words, (model_of or site).variables(generated))


def predict_probabilities(
    site: SiteSpace, generated: Path, recipe: Recipe, arm: str, model_of: SiteSpace
) -> Job:
    """Predict a site's held-out cases with another site's network, and keep the probabilities."""
    target = probabilities(site, model_of)
    words = _predict_words(site, model_of, recipe, arm, target)
    step = f"predict-{ENSEMBLE}-{model_of.name}"
    return _job(site, step, (*words, "--save_probabilities"), model_of.variables(generated))


def ensemble(site: SiteSpace, generated: Path, models_of: Sequence[SiteSpace]) -> Job:
    """Average the probabilities of all sites' networks, by nnU-Net's own command."""
    folders = [str(probabilities(site, model)) for model in models_of]
    target = str(site.predictions(ENSEMBLE))
    words = (command("nnUNetv2_ensemble"), "-i", *folders, "-o", target, "-np", "1")
    return _job(site, f"predict-{ENSEMBLE}", words, site.variables(generated))


def probabilities(site: SiteSpace, model_of: SiteSpace) -> Path:
    """Where the probabilities of one site's held-out cases by another site's network go."""
    return site.folder / "probabilities" / model_of.name


def keep_segmentations(site: SiteSpace, models_of: Sequence[SiteSpace], arm: str) -> None:
    """Keep what each other site's network made of this site's cases; the probabilities, gigabytes, go."""
    ending = raw_description(site.raw)["file_ending"]
    for model in (model for model in models_of if model != site):
        target = site.predictions(f"{arm}@{model.name}")
        for path in probabilities(site, model).glob(f"*{ending}"):
            target.mkdir(parents=True, exist_ok=True)
            path.replace(target / path.name)
    shutil.rmtree(site.folder / "probabilities", ignore_errors=True)


def _predict_words(
    site: SiteSpace, model_of: SiteSpace, recipe: Recipe, arm: str, target: Path
) -> tuple[str, ...]:
    return (
        command("nnUNetv2_predict"),
        "-i",
        str(site.raw / "imagesTs"),
        "-o",
        str(target),
        "-d",
        model_of.dataset,
        "-c",
        recipe.trained_configuration(),
        "-f",
        recipe.fold,
        "-p",
        PLANS,
        "-tr",
        class_name(arm),
        "-device",
        recipe.device,
        "--disable_tta",
        "--disable_progress_bar",
        "-npp",
        "0",
        "-nps",
        "0",
    )


def _job(site: SiteSpace, step: str, words: tuple[str, ...], variables: Mapping[str, str]) -> Job:
    log = site.log(step)
    return Job(site.name, words, variables, log, log.with_suffix(".done"))
