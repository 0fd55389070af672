"""One raw dataset becomes the raw datasets of several sites, below the run folder, as links.

OUT/raw-split/DatasetXXX_SITE/  one for each site, with splits_final.json and patients.csv
OUT/raw-split/division.csv      case, patient, site, role
OUT/raw-split/sites.md          what each site got
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_gml.markdown import markdown_table
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.divisions import (
    Split,
    by_value,
    deal,
    folds,
    hold_out,
    parse_split,
    standing_out,
)
from nnunet_gml.simulation.raw_files import describe, labelled_cases, link_cases
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.scores import patients_of
from nnunet_gml.simulation.workspace import check_name, class_names, slug
from peer_sync.errors import ConfigError

Volumes = Mapping[str, Mapping[str, float]]
"""Of each case, by class, in ml."""
MOST_NAMED = 5
"""So many cases are named in an error."""


@dataclass(frozen=True)
class Share:
    """What one site got: its patients to train with, those held out, and the cases of each patient."""

    site: str
    training: Sequence[str]
    held_out: Sequence[str]
    cases: Mapping[str, Sequence[str]]

    def cases_of(self, patients: Iterable[str]) -> list[str]:
        """All cases of these patients, sorted."""
        return sorted(case for patient in patients for case in self.cases[patient])


def split_dataset(recipe: Recipe, out: Path) -> tuple[str, ...]:
    """The raw datasets of the sites that a recipe makes of one; a run that was begun keeps its own.

    Raises:
        ConfigError: there is more than one raw dataset, or it cannot be divided like that.
    """
    folder, part = out / "raw-split", out / "raw-split.part"
    if not (folder.exists() and (out / "run.json").exists()):
        shutil.rmtree(part, ignore_errors=True)
        _write(recipe, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    return tuple(str(path) for path in _in_order(folder))


def _write(recipe: Recipe, folder: Path) -> None:
    if len(recipe.datasets) != 1:
        raise ConfigError(
            f"--split divides one raw dataset, not {len(recipe.datasets)}", "name one, or leave out --split"
        )
    raw, split = Path(recipe.datasets[0]), parse_split(recipe.split, recipe.sites)
    check_name(raw)
    cases = labelled_cases(raw)
    volumes = {case: class_volumes(raw, case) for case in cases}
    shares = divide(recipe, split, _patients(recipe, raw, cases), volumes)
    folder.mkdir(parents=True)
    for number, share in enumerate(shares):
        name = f"Dataset{(int(raw.name[7:10]) + number - 1) % 999 + 1:03d}_{share.site}"
        write_share(raw, folder / name, share, recipe.seed)
    (folder / "sites.md").write_text(table(recipe, shares, volumes))
    _write_division(folder / "division.csv", shares)


def divide(
    recipe: Recipe, split: Split, patients: Mapping[str, Sequence[str]], volumes: Volumes
) -> list[Share]:
    """The sites with their patients. Raises `ConfigError` where that cannot be done.

    Args:
        recipe: for seed, share to hold out, and the table with a column.
        split: how.
        patients: the cases of each patient.
        volumes: of each case.
    """
    if split.kind == "by-column":
        values = _column(recipe, split.column, patients)
        sites = {_site(value): names for value, names in by_value(values).items()}
        if len(sites) < len(set(values.values())):
            known = ", ".join(sorted(set(values.values())))
            raise ConfigError(
                f"two values of {split.column} make one name of a site: {known}",
                "sites are named in small letters, digits and hyphens",
            )
    else:
        assert split.sites is not None
        groups = dict.fromkeys(patients, "")
        if split.kind == "dirichlet-labels":
            groups = standing_out({name: _sum(volumes, cases) for name, cases in patients.items()})
        dealt = deal(groups, split.sites, split.alpha, recipe.seed)
        sites = {f"site{number:02d}": names for number, names in enumerate(dealt, start=1)}
    return [
        Share(site, *hold_out(names, recipe.held_out, recipe.seed), patients) for site, names in sites.items()
    ]


def write_share(raw: Path, target: Path, share: Share, seed: int) -> None:
    """Write one site's raw dataset: links to its cases, folds by patient, and who is who."""
    link_cases(raw, target, "Tr", share.cases_of(share.training))
    link_cases(raw, target, "Ts", share.cases_of(share.held_out))
    splits = [
        {"train": share.cases_of(train), "val": share.cases_of(validate)}
        for train, validate in folds(share.training, seed)
    ]
    here = (*share.training, *share.held_out)
    names = {case: patient for patient in here for case in share.cases[patient]}
    describe(target, raw_description(raw), splits, names)


def table(recipe: Recipe, shares: Sequence[Share], volumes: Volumes) -> str:
    """What each site got, as Markdown: patients, cases, and the mean volume of each class in a case."""
    classes = list(dict.fromkeys(name for own in volumes.values() for name in own))
    heads = ["site", "patients", "training cases", "held-out cases", *(f"{name}, ml" for name in classes)]
    rows = [heads]
    for share in shares:
        training, held_out = share.cases_of(share.training), share.cases_of(share.held_out)
        every = [*training, *held_out]
        means = [sum(volumes[case][name] for case in every) / len(every) for name in classes]
        patients = len(share.training) + len(share.held_out)
        rows.append(
            [
                share.site,
                *map(str, (patients, len(training), len(held_out))),
                *(f"{mean:.2f}" for mean in means),
            ]
        )
    head = f"`--split {recipe.split}` of {Path(recipe.datasets[0]).name}, seed {recipe.seed}."
    alone = all(len(cases) == 1 and patient in cases for patient, cases in shares[0].cases.items())
    note = "\nNobody says which cases show one patient: each case counts as a patient.\n" if alone else ""
    return f"{head} Simulated sites. ml: mean of a case.\n\n{markdown_table(rows)}{note}"


def _patients(recipe: Recipe, raw: Path, cases: Sequence[str]) -> dict[str, list[str]]:
    """The cases of each patient; a case that no table names is a patient of its own."""
    named = {case: row["patient"] for case, row in _rows(recipe).items() if row.get("patient")}
    known = {**patients_of(raw), **named}
    patients: dict[str, list[str]] = {}
    for case in cases:
        patients.setdefault(known.get(case, case), []).append(case)
    return patients


def _rows(recipe: Recipe) -> dict[str, dict[str, str]]:
    """The table's row of each case; empty without a table."""
    path = Path(recipe.table or Path(recipe.datasets[0]) / "patients.csv")
    if not path.is_file():
        if recipe.table:
            raise ConfigError(f"there is no table {path}", "a CSV with the columns case, patient, and others")
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and "case" not in rows[0]:
        raise ConfigError(f"{path} has no column case", f"its columns are {', '.join(rows[0])}")
    return {row["case"]: row for row in rows}


def _column(recipe: Recipe, column: str, patients: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each patient's value in a column. Raises `ConfigError` where it has none, or two."""
    rows = _rows(recipe)
    known = {case: row[column] for case, row in rows.items() if row.get(column)}
    missing = sorted(case for cases in patients.values() for case in cases if case not in known)
    if missing:
        raise ConfigError(
            f"the table has no {column} for {', '.join(missing[:MOST_NAMED])}",
            "every case needs a row; --table names another file than the dataset's patients.csv",
        )
    values = {patient: sorted({known[case] for case in cases}) for patient, cases in patients.items()}
    for patient, found in values.items():
        if len(found) > 1:
            raise ConfigError(
                f"patient {patient} has several values of {column}: {', '.join(found)}",
                "a patient is at one site only",
            )
    return {patient: found[0] for patient, found in values.items()}


def _site(value: str) -> str:
    return slug(value) or "site"


def class_volumes(raw: Path, case: str) -> dict[str, float]:
    """The volume of each class (or region) in the label of a training case, in ml."""
    import numpy as np
    import SimpleITK

    about = raw_description(raw)
    image = SimpleITK.ReadImage(str(raw / "labelsTr" / f"{case}{about['file_ending']}"))
    counts = np.bincount(SimpleITK.GetArrayViewFromImage(image).ravel().astype(np.int64))
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000
    values = {name: about["labels"][name] for name in class_names(raw)}
    parts = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {
        name: voxel_ml * float(sum(counts[value] for value in own if value < len(counts)))
        for name, own in parts.items()
    }


def _sum(volumes: Volumes, cases: Sequence[str]) -> dict[str, float]:
    return {name: sum(volumes[case][name] for case in cases) for name in volumes[cases[0]]}


def _write_division(path: Path, shares: Sequence[Share]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "patient", "site", "role"))
        for share in shares:
            for role, patients in (("training", share.training), ("held out", share.held_out)):
                writer.writerows(
                    (case, patient, share.site, role) for patient in patients for case in share.cases[patient]
                )


def _in_order(folder: Path) -> list[Path]:
    """The datasets in the order of the division, which is that of the sites."""
    with (folder / "division.csv").open(newline="") as file:
        sites = list(dict.fromkeys(row["site"] for row in csv.DictReader(file)))
    return [path for site in sites for path in folder.glob(f"Dataset???_{site}")]
