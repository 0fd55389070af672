"""The run folder of a simulation: where each site keeps its things.

OUT/run.json  federation.toml  trainers/  results.csv  table.md
OUT/sites/NAME/  site.toml keys/ mail/ logs/ predictions/ARM/
                 nnUNet_raw/ nnUNet_preprocessed/ nnUNet_results/
OUT/pooled/      the same for all training cases in one place, if that arm was asked for
OUT/raw-split/   the sites' raw datasets, where one was divided; OUT/raw-shifted/ those of shifted sites
OUT/jobs/        what submitit writes, with a launcher
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_gml.installed import trainers_folder
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.recipe import Recipe
from peer_sync.errors import ConfigError

PLANS = "nnUNetPlans"
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30)}
"""glibc, do not give memory back after every layer: a third of the time of a small network on a CPU."""


@dataclass(frozen=True)
class SiteSpace:
    """One simulated site: its name, its raw dataset (linked, never copied) and its folder."""

    name: str
    raw: Path
    folder: Path

    @property
    def dataset(self) -> str:
        """The dataset's name, ``DatasetXXX_Name``."""
        return self.raw.name

    @property
    def dataset_id(self) -> str:
        """The three digits, as nnU-Net's commands take them."""
        return self.dataset[7:10]

    @property
    def preprocessed(self) -> Path:
        """The dataset's folder below nnUNet_preprocessed."""
        return self.folder / "nnUNet_preprocessed" / self.dataset

    def model(self, class_name: str, recipe: Recipe) -> Path:
        """The folder that nnU-Net gives to one trainer, plans and configuration."""
        model = f"{class_name}__{PLANS}__{recipe.trained_configuration()}"
        return self.folder / "nnUNet_results" / self.dataset / model

    def log(self, step: str) -> Path:
        """The log file of one step."""
        return self.folder / "logs" / f"{step}.log"

    def predictions(self, arm: str) -> Path:
        """Where the predictions of one arm's network go."""
        return self.folder / "predictions" / arm

    def site_file(self, arm: str) -> Path:
        """The site file of one arm's run; runs must not find each other's offers."""
        return self.folder / f"site{run_suffix(arm)}.toml"

    def mail(self, arm: str) -> Path:
        """The mail folder of one arm's run."""
        return self.folder / f"mail{run_suffix(arm)}"

    def variables(self, generated: Path) -> dict[str, str]:
        """What nnU-Net's commands need in the environment at this site.

        Args:
            generated: folder with the run's own trainer classes.
        """
        folders = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        external = [str(trainers_folder()), *map(str, other_trainer_folders()), str(generated)]
        return {
            **{name: str(self.folder / name) for name in folders},
            "nnUNet_extTrainer": os.pathsep.join(external),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            "PYTHONUNBUFFERED": "1",
            **KEEP_MEMORY,
        }


def run_suffix(arm: str) -> str:
    """The default trainer's own run has the plain names, whatever other arms there are."""
    return "" if arm == "nnUNetTrainerGML" else f"-{arm}"


def other_trainer_folders() -> list[Path]:
    """Folders of external trainers that the user has named in nnUNet_extTrainer already."""
    named = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    return [Path(folder) for folder in named if folder.strip()]


def slug(dataset: str) -> str:
    """The site's name: the dataset's own name in small letters, digits and hyphens.

    >>> slug("Dataset501_A_u8")
    'a-u8'
    """
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"^Dataset\d{3}_", "", dataset).lower()).strip("-")


def read_sites(datasets: Sequence[str], out: Path) -> list[SiteSpace]:
    """Check the raw datasets, each alone and all together, and lay out their sites.

    Raises:
        ConfigError: a dataset is not in nnU-Net's layout, has no held-out cases, shares its site
            name with another one, or differs from the first in labels, channels or file ending.
    """
    sites = [SiteSpace(slug(Path(d).name), Path(d), out / "sites" / slug(Path(d).name)) for d in datasets]
    for site in sites:
        _check_layout(site.raw)
    for number, site in enumerate(sites):
        for earlier in sites[:number]:
            if site.name == earlier.name:
                raise ConfigError(
                    f"{earlier.raw} and {site.raw} both make a site named {site.name!r}",
                    "give the datasets different names",
                )
    _check_same(sites)
    return sites


def check_name(raw: Path) -> None:
    """Make sure that a raw dataset has a name as nnU-Net wants it. Raises `ConfigError`."""
    if not re.fullmatch(r"Dataset\d{3}_.+", raw.name):
        raise ConfigError(f"{raw} is not named DatasetXXX_Name", "nnU-Net finds datasets by such names only")


def _check_layout(raw: Path) -> None:
    check_name(raw)
    for name in ("dataset.json", "imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        if not (raw / name).exists():
            raise ConfigError(
                f"{raw} has no {name}",
                "a simulation needs held-out cases too: imagesTs and labelsTs"
                if name.endswith("Ts")
                else "give the folder of a raw dataset in nnU-Net's layout",
            )
    ending = raw_description(raw)["file_ending"]
    labels = {path.name.removesuffix(ending) for path in (raw / "labelsTs").glob(f"*{ending}")}
    images = {path.name.removesuffix(ending)[:-5] for path in (raw / "imagesTs").glob(f"*{ending}")}
    if not images or images - labels:
        missing = ", ".join(sorted(images - labels)) or "every case"
        raise ConfigError(f"{raw}/labelsTs has no label for {missing}", "each case in imagesTs needs one")
    if labels - images:
        missing = ", ".join(sorted(labels - images))
        raise ConfigError(f"{raw}/imagesTs has no image for {missing}", "each case in labelsTs needs one")


def _check_same(sites: Sequence[SiteSpace]) -> None:
    first = raw_description(sites[0].raw)
    for site in sites[1:]:
        other = raw_description(site.raw)
        for key in ("labels", "channel_names", "file_ending", "regions_class_order"):
            if other.get(key) != first.get(key):
                raise ConfigError(
                    f"{key} is {other.get(key)} in {site.raw}, but {first.get(key)} in {sites[0].raw}",
                    "all sites of a simulation need the same labels, channels and file ending",
                )


def class_names(raw: Path) -> tuple[str, ...]:
    """The classes (or regions) of a raw dataset, in the order of its dataset.json."""
    return tuple(name for name in raw_description(raw)["labels"] if name not in ("background", "ignore"))
