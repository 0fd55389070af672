"""What each place trains on: the raw dataset itself, one that lacks organs, or all of them pooled.

Images are linked, never copied; only labels from which organs were taken are written anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.raw_files import link, write_json
from nnunet_gml.simulation.recipe import POOLED, Recipe
from nnunet_gml.simulation.shifts import shift_datasets
from nnunet_gml.simulation.splitting import split_dataset
from nnunet_gml.simulation.workspace import SiteSpace, class_names
from peer_sync.errors import ConfigError

LARGEST_ID = 999


def raw_datasets(recipe: Recipe, out: Path) -> tuple[str, ...]:
    """The sites' raw datasets: those given, or divided from one of them, some shifted.

    Raises:
        ConfigError: the split or a shift cannot be done.
    """
    if recipe.sites is not None and not recipe.split:
        raise ConfigError("--sites without --split", "each raw dataset is one site; --split divides one")
    datasets = split_dataset(recipe, out) if recipe.split else recipe.datasets
    return shift_datasets(datasets, recipe.shifts, out, recipe.seed) if recipe.shifts else datasets


def check_missing(sites: Sequence[SiteSpace], recipe: Recipe) -> None:
    """Make sure that what the recipe takes from sites is there.

    Raises:
        ConfigError: an organ to be taken away does not exist, or a site to take it from.
    """
    missing = recipe.missing_organs()
    unknown = missing.keys() - {site.name for site in sites}
    if unknown:
        known = ", ".join(site.name for site in sites)
        raise ConfigError(f"there is no site {', '.join(sorted(unknown))}", f"the sites are {known}")
    for site in sites:
        labels = raw_description(site.raw)["labels"]
        for organ in missing.get(site.name, ()):
            if not isinstance(labels.get(organ), int):
                raise ConfigError(
                    f"{organ!r} cannot be taken from {site.raw}",
                    f"plain labels only; its classes are {', '.join(class_names(site.raw))}",
                )


def lay_out(sites: Sequence[SiteSpace], recipe: Recipe) -> None:
    """Make every site's folders, and the dataset that its nnU-Net sees."""
    missing = recipe.missing_organs()
    for site in sites:
        _make_folders(site)
        if site.name in missing:
            _take_away(site, missing[site.name])
        else:
            link(seen_by(site), site.raw)


def seen_by(site: SiteSpace) -> Path:
    """The raw dataset in the site's own nnUNet_raw."""
    return site.folder / "nnUNet_raw" / site.dataset


def _make_folders(site: SiteSpace) -> None:
    for name in ("nnUNet_raw", "nnUNet_results"):
        (site.folder / name).mkdir(parents=True, exist_ok=True)
    site.preprocessed.mkdir(parents=True, exist_ok=True)


def _take_away(site: SiteSpace, organs: Sequence[str]) -> None:
    """A dataset of links, but with training labels in which the organs are background."""
    labels = raw_description(site.raw)["labels"]
    dataset = seen_by(site)
    part = dataset.with_name(f".part-{dataset.name}")
    if dataset.exists():
        return
    shutil.rmtree(part, ignore_errors=True)
    (part / "labelsTr").mkdir(parents=True)
    for path in site.raw.iterdir():
        if path.name != "labelsTr":
            link(part / path.name, path)
    for path in sorted((site.raw / "labelsTr").iterdir()):
        _erase(path, part / "labelsTr" / path.name, [labels[organ] for organ in organs])
    part.rename(dataset)


def _erase(source: Path, target: Path, values: Sequence[int]) -> None:
    import numpy as np
    import SimpleITK

    image = SimpleITK.ReadImage(str(source))
    voxels = SimpleITK.GetArrayFromImage(image)
    voxels[np.isin(voxels, values)] = 0
    erased = SimpleITK.GetImageFromArray(voxels)
    erased.CopyInformation(image)
    SimpleITK.WriteImage(erased, str(target))


def pooled_place(out: Path, sites: Sequence[SiteSpace]) -> SiteSpace:
    """The place of the pooled arm; its dataset takes a number that no site has."""
    taken = {int(site.dataset_id) for site in sites}
    number = next(n for n in range(LARGEST_ID, 0, -1) if n not in taken)
    return SiteSpace(POOLED, out / POOLED / "raw" / f"Dataset{number:03d}_{POOLED}", out / POOLED)


def pool(place: SiteSpace, sites: Sequence[SiteSpace], fold: str) -> None:
    """Write the pooled dataset: links to every site's raw training cases, and the union of their splits.

    Each case trains, or validates, as it does at its own site.
    """
    _make_folders(place)
    link(seen_by(place), place.raw)
    if place.raw.exists():
        return
    part = place.raw.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in ("imagesTr", "labelsTr"):
        (part / name).mkdir(parents=True)
        for site in sites:
            for path in sorted((site.raw / name).iterdir()):
                link(part / name / f"{site.name}_{path.name}", path.resolve())
    about = {**raw_description(sites[0].raw), "numTraining": len(list((part / "labelsTr").iterdir()))}
    write_json(part / "dataset.json", about)
    if fold != "all":
        write_json(part / "splits_final.json", _union([_named(site, int(fold)) for site in sites], int(fold)))
    part.rename(place.raw)


def _named(site: SiteSpace, fold: int) -> dict[str, list[str]]:
    return {part: [f"{site.name}_{case}" for case in cases] for part, cases in _split(site, fold).items()}


def _split(site: SiteSpace, fold: int) -> Mapping[str, Sequence[str]]:
    """The site's own split, or the one that nnU-Net makes where there is none."""
    written = site.raw / "splits_final.json"
    if written.exists():
        splits: list[dict[str, list[str]]] = json.loads(written.read_text())
    else:
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        ending = raw_description(site.raw)["file_ending"]
        names = [path.name for path in (site.raw / "labelsTr").glob(f"*{ending}")]
        splits = generate_crossval_split(sorted(name.removesuffix(ending) for name in names))
    return splits[fold]


def _union(splits: Sequence[Mapping[str, Sequence[str]]], fold: int) -> list[dict[str, list[str]]]:
    """nnU-Net's list of folds: all are the one that is trained, as no other is looked at."""
    whole = {part: sorted(str(case) for split in splits for case in split[part]) for part in ("train", "val")}
    return [whole] * (fold + 1)
