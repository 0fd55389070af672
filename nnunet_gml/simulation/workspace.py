"""The run folder of a simulation: what was asked for, where each site keeps its things.

OUT/run.json  federation.toml  trainers/  results.csv  table.md
OUT/sites/NAME/  site.toml keys/ mail/ logs/ predictions/TRAINER/
                 nnUNet_raw/ nnUNet_preprocessed/ nnUNet_results/
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_gml.installed import trainers_folder
from peer_sync.errors import ConfigError

PLANS = "nnUNetPlans"
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30)}
"""glibc, do not give memory back after every layer: a third of the time of a small network on a CPU."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a simulation's numbers; two runs with equal recipes are the same run."""

    datasets: tuple[str, ...]
    trainers: tuple[str, ...]
    epochs: int
    iterations: int
    seed: int
    device: str = "cpu"
    configuration: str = "3d_fullres"
    fold: str = "0"
    patch_size: tuple[int, ...] | None = None
    features: tuple[int, ...] | None = None
    batch_size: int | None = None
    spacing: tuple[float, ...] | None = None
    learning_rate: float | None = None
    warmup_epochs: int | None = None
    epochs_per_round: int | None = None
    mutual_epochs: int | None = None

    def is_small(self) -> bool:
        """Whether the plans get a smaller configuration of their own."""
        overrides = (self.patch_size, self.features, self.batch_size, self.spacing)
        return any(value is not None for value in overrides)

    def trained_configuration(self) -> str:
        """The configuration that is trained: the one asked for, or the small one made from it."""
        return f"{self.configuration.split('_')[0]}_small" if self.is_small() else self.configuration

    def as_json(self) -> dict[str, Any]:
        """The recipe as it stands in run.json."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


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

    def predictions(self, trainer: str) -> Path:
        """Where the predictions of one trainer's network go."""
        return self.folder / "predictions" / trainer

    def site_file(self, trainer: str, recipe: Recipe) -> Path:
        """The site file of one trainer's run; runs must not find each other's offers."""
        return self.folder / f"site{_run_suffix(trainer, recipe)}.toml"

    def mail(self, trainer: str, recipe: Recipe) -> Path:
        """The mail folder of one trainer's run."""
        return self.folder / f"mail{_run_suffix(trainer, recipe)}"

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


def _run_suffix(trainer: str, recipe: Recipe) -> str:
    exchanging = [name for name in recipe.trainers if name != "nnUNetTrainer"]
    return "" if exchanging[:1] in ([trainer], []) else f"-{trainer}"


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


def _check_layout(raw: Path) -> None:
    if not re.fullmatch(r"Dataset\d{3}_.+", raw.name):
        raise ConfigError(f"{raw} is not named DatasetXXX_Name", "nnU-Net finds datasets by such names only")
    for name in ("dataset.json", "imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        if not (raw / name).exists():
            raise ConfigError(
                f"{raw} has no {name}",
                "a simulation needs held-out cases too: imagesTs and labelsTs"
                if name.endswith("Ts")
                else "give the folder of a raw dataset in nnU-Net's layout",
            )
    ending = description(raw)["file_ending"]
    labels = {path.name.removesuffix(ending) for path in (raw / "labelsTs").glob(f"*{ending}")}
    images = {path.name.removesuffix(ending)[:-5] for path in (raw / "imagesTs").glob(f"*{ending}")}
    if not images or images - labels:
        missing = ", ".join(sorted(images - labels)) or "every case"
        raise ConfigError(f"{raw}/labelsTs has no label for {missing}", "each case in imagesTs needs one")


def _check_same(sites: Sequence[SiteSpace]) -> None:
    first = description(sites[0].raw)
    for site in sites[1:]:
        other = description(site.raw)
        for key in ("labels", "channel_names", "file_ending", "regions_class_order"):
            if other.get(key) != first.get(key):
                raise ConfigError(
                    f"{key} is {other.get(key)} in {site.raw}, but {first.get(key)} in {sites[0].raw}",
                    "all sites of a simulation need the same labels, channels and file ending",
                )


def description(raw: Path) -> dict[str, Any]:
    """The dataset.json of a raw dataset."""
    content: dict[str, Any] = json.loads((raw / "dataset.json").read_text())
    return content


def claim(out: Path, recipe: Recipe, continued: bool) -> dict[str, Any]:
    """Take the run folder, or take it up again, and return the content of its run.json.

    Raises:
        ConfigError: the folder holds something else, another recipe's run, or this recipe's run
            without ``continued``.
    """
    record = out / "run.json"
    if not record.exists():
        foreign = sorted(path.name for path in out.glob("*") if path.name != "raw")
        if foreign:
            raise ConfigError(f"{out} is not empty ({foreign[0]}) and has no run.json", "give another --out")
        return {"recipe": recipe.as_json()}
    content: dict[str, Any] = json.loads(record.read_text())
    changed = _differences(content["recipe"], recipe.as_json())
    if changed:
        raise ConfigError(f"{out} holds a run with another {', '.join(changed)}", "give another --out")
    if not continued:
        raise ConfigError(f"{out} holds this run already", "add --continue to take it up where it stopped")
    return content


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
