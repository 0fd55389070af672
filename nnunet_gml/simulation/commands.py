"""nnU-Net's own commands, as the jobs of one site."""

from __future__ import annotations

from pathlib import Path

from nnunet_gml.installed import command
from nnunet_gml.simulation.arms import class_name
from nnunet_gml.simulation.processes import Job
from nnunet_gml.simulation.workspace import PLANS, Recipe, SiteSpace


def fingerprint(site: SiteSpace, generated: Path) -> Job:
    """Look at the training cases."""
    words = (command("nnUNetv2_extract_fingerprint"), "-d", site.dataset_id, "-np", "1", "--no_pbar")
    return _job(site, "fingerprint", words, generated)


def plan(site: SiteSpace, generated: Path) -> Job:
    """Plan network and preprocessing from this site's fingerprint."""
    return _job(site, "plan", (command("nnUNetv2_plan_experiment"), "-d", site.dataset_id), generated)


def preprocess(site: SiteSpace, generated: Path, recipe: Recipe) -> Job:
    """Preprocess the training cases by the shared plans."""
    words = (command("nnUNetv2_preprocess"), "-d", site.dataset_id, "-c", recipe.trained_configuration())
    return _job(site, "preprocess", (*words, "-np", "1", "--no_pbar"), generated)


def train(site: SiteSpace, generated: Path, recipe: Recipe, trainer: str) -> Job:
    """Train one arm; from its checkpoint, if an earlier run has left one."""
    name = class_name(trainer)
    fold = site.model(name, recipe) / f"fold_{recipe.fold}"
    words = (
        command("nnUNetv2_train"),
        site.dataset,
        recipe.trained_configuration(),
        recipe.fold,
        "-tr",
        name,
        "-device",
        recipe.device,
    )
    resumed = ("--c",) if any(fold.glob("checkpoint_*.pth")) else ()
    variables = {
        **site.variables(generated),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_gml_site": str(site.site_file(trainer, recipe)),
    }
    return Job(
        site.name, (*words, *resumed), variables, site.log(f"train-{trainer}"), fold / "checkpoint_final.pth"
    )


def predict(site: SiteSpace, generated: Path, recipe: Recipe, trainer: str) -> Job:
    """Predict the held-out cases, without mirroring: on a CPU that is eight times as fast."""
    words = (
        command("nnUNetv2_predict"),
        "-i",
        str(site.raw / "imagesTs"),
        "-o",
        str(site.predictions(trainer)),
        "-d",
        site.dataset,
        "-c",
        recipe.trained_configuration(),
        "-f",
        recipe.fold,
        "-p",
        PLANS,
        "-tr",
        class_name(trainer),
        "-device",
        recipe.device,
        "--disable_tta",
        "--disable_progress_bar",
        "-npp",
        "0",
        "-nps",
        "0",
    )
    return _job(site, f"predict-{trainer}", words, generated)


def _job(site: SiteSpace, step: str, words: tuple[str, ...], generated: Path) -> Job:
    log = site.log(step)
    return Job(site.name, words, site.variables(generated), log, log.with_suffix(".done"))
