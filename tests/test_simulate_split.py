"""One raw dataset divided among simulated sites: by patient, repeatably, as links."""

import csv
import json
import math
from itertools import combinations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_gml.simulation.datasets import raw_datasets
from nnunet_gml.simulation.divisions import (
    FEWEST_PATIENTS,
    by_value,
    deal,
    folds,
    hold_out,
    parse_split,
    standing_out,
)
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.workspace import read_sites
from peer_sync.errors import ConfigError


def recipe(raw, split, **changes):
    """A recipe that divides one raw dataset."""
    return Recipe((str(raw),), ("nnUNetTrainer",), 1, 1, **{"seed": 5, "split": split, **changes})


@pytest.fixture
def raw(tmp_path):
    """Sixteen cases of eight patients, p0 to p3 at a small scanner; the cord is 1 ml, the eyes 2 or 6 ml."""
    raw = tmp_path / "Dataset042_neck"
    rows = ["case,patient,scanner"]
    for case in range(16):
        label = np.zeros((1, 4, 4), np.uint8)
        label.ravel()[0] = 1
        label.ravel()[1 : 3 if case < 8 else 7] = 2
        for kind, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
            (raw / kind).mkdir(parents=True, exist_ok=True)
            image = SimpleITK.GetImageFromArray(label)
            image.SetSpacing((10.0, 10.0, 10.0))
            SimpleITK.WriteImage(image, str(raw / kind / f"c{case:02d}{ending}.nii.gz"))
        rows.append(f"c{case:02d},p{case // 2},{'Small 1' if case < 8 else 'large'}")
    (raw / "patients.csv").write_text("\n".join(rows) + "\n")
    labels = {"background": 0, "cord": 1, "eyes": 2}
    about = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 16}
    (raw / "dataset.json").write_text(json.dumps(about))
    return raw


def groups_of(dataset):
    """Patients of the training cases, of those held out, and the splits, of one written dataset."""
    with (dataset / "patients.csv").open(newline="") as file:
        patients = {row["case"]: row["patient"] for row in csv.DictReader(file)}
    cases = [
        [path.name.removesuffix(".nii.gz") for path in (dataset / f"labels{s}").iterdir()]
        for s in ("Tr", "Ts")
    ]
    splits = json.loads((dataset / "splits_final.json").read_text())
    training, held_out = ({patients[case] for case in part} for part in cases)
    return (
        training,
        held_out,
        [[{patients[c] for c in fold[part]} for part in ("train", "val")] for fold in splits],
    )


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=4), st.sampled_from("xyz"), min_size=20, max_size=40
    ),
    st.integers(2, 4),
    st.sampled_from([0.5, 2.0, math.inf]),
    st.integers(0, 9),
)
def test_every_patient_is_dealt_once(groups, count, alpha, seed):
    """To one site, all of them, the same for the same seed; no site is too small."""
    dealt = deal(groups, count, alpha, seed)

    assert sorted(name for site in dealt for name in site) == sorted(groups)
    assert min(map(len, dealt)) >= FEWEST_PATIENTS
    assert dealt == deal(groups, count, alpha, seed)


def test_at_random_the_sites_are_alike_in_size():
    """Eleven patients, three sites: ends at 11/3 and 22/3, rounded 4 and 7, so 4, 3 and 4."""
    dealt = deal(dict.fromkeys(map(str, range(11)), ""), 3, math.inf, seed=1)

    assert [len(site) for site in dealt] == [4, 3, 4]


def test_a_small_alpha_makes_unequal_sites():
    """Of 200 patients at four sites: the largest over the smallest, mean of 20 seeds, is far greater."""

    def spread(alpha):
        dealt = [deal(dict.fromkeys(map(str, range(200)), ""), 4, alpha, seed) for seed in range(20)]
        return sum(max(map(len, sites)) / min(map(len, sites)) for sites in dealt) / len(dealt)

    assert spread(100) < 2 < 5 < spread(0.3)


def test_a_small_alpha_of_labels_separates_the_groups():
    """Half of 100 patients are x; with alpha 0.1 hardly a site has as many of one as of the other."""
    groups = {str(n): "x" if n % 2 else "y" for n in range(100)}

    shares = [
        [sum(groups[name] == "x" for name in site) / len(site) for site in deal(groups, 3, alpha, seed=2)]
        for alpha in (0.1, math.inf)
    ]

    assert max(shares[0]) - min(shares[0]) > 0.5
    assert max(shares[1]) - min(shares[1]) < 0.05


def test_too_few_patients_for_so_many_sites():
    """Five patients cannot make two sites of three; the error says both numbers."""
    with pytest.raises(ConfigError, match="5 patients cannot be divided so that each of 2 sites has 3"):
        deal(dict.fromkeys("abcde", ""), 2, math.inf, seed=1)


def test_standing_out_by_hand():
    """Shares of Ann 3/4 and 1/4, of Bob 1/4 and 3/4, Carl has nothing: both means are 1/3."""
    volumes = {"Ann": {"a": 3, "b": 1}, "Bob": {"a": 1, "b": 3}, "Carl": {"a": 0, "b": 0}}

    assert standing_out(volumes) == {"Ann": "a", "Bob": "b", "Carl": ""}


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 6)])
def test_held_out_are_one_at_least_and_two_are_left(share, count):
    """Of eight patients: a share, rounded; never all."""
    training, held_out = hold_out([f"p{n}" for n in range(8)], share, seed=3)

    assert len(held_out) == count
    assert sorted([*training, *held_out]) == [f"p{n}" for n in range(8)]


@pytest.mark.parametrize("count", [2, 5, 9])
def test_folds_are_by_patient_and_five(count):
    """No patient trains and validates in one fold; with five or more everyone validates once."""
    patients = [f"p{n}" for n in range(count)]

    made = folds(patients, seed=3)

    assert len(made) == 5
    for train, validate in made:
        assert train and validate and sorted([*train, *validate]) == patients
    if count >= 5:
        assert sorted(name for _, validate in made for name in validate) == patients


@pytest.mark.parametrize(
    ("words", "sites"),
    [
        ("random", None),
        ("random=2", 2),
        ("random", 1),
        ("dirichlet", 2),
        ("dirichlet=0", 2),
        ("by-column=x", 2),
        ("x", 2),
    ],
)
def test_what_is_no_split_is_refused(words, sites):
    """Unknown, without its value or with one too many, or without a number of sites."""
    with pytest.raises(ConfigError):
        parse_split(words, sites)


@pytest.mark.parametrize("split", ["random", "dirichlet=5", "dirichlet-labels=5"])
def test_no_patient_is_in_two_places(tmp_path, raw, split):
    """Not at two sites, not in training and held out, not in both parts of a fold."""
    datasets = raw_datasets(recipe(raw, split, sites=2, held_out=0.3), tmp_path / "out")

    assert [site.name for site in read_sites(datasets, tmp_path / "out")] == ["site01", "site02"]
    groups = [groups_of(tmp_path / dataset) for dataset in datasets]
    everyone = [part for training, held_out, _ in groups for part in (training, held_out)]
    assert all(not one & other for one, other in combinations(everyone, 2))
    assert set.union(*everyone) == {f"p{n}" for n in range(8)}
    for training, _, splits in groups:
        assert all(not train & validate and train | validate == training for train, validate in splits)


def test_sites_by_a_column(tmp_path, raw):
    """Each value is a site, in nnU-Net's layout, of links to the cases; the table says what each got.

    large: the cord is 1 ml, the eyes are 6 ml in each case; four patients each, 0.25 held out: one.
    """
    datasets = raw_datasets(recipe(raw, "by-column=scanner"), tmp_path / "out")

    large, small = (tmp_path / dataset for dataset in datasets)
    assert {path.name[11:] for path in (large, small)} == {"small-1", "large"}
    training, held_out, _ = groups_of(next(path for path in (large, small) if path.name.endswith("large")))
    assert (len(training), len(held_out), training | held_out) == (3, 1, {"p4", "p5", "p6", "p7"})
    linked = next((large / "imagesTr").iterdir())
    assert linked.is_symlink() and linked.resolve().parent == raw / "imagesTr"
    table = (tmp_path / "out" / "raw-split" / "sites.md").read_text()
    assert "| large | 4 | 6 | 2 | 1.00 | 6.00 |" in table
    assert "| small-1 | 4 | 6 | 2 | 1.00 | 2.00 |" in table


def test_a_run_that_was_begun_keeps_its_division(tmp_path, raw):
    """--continue must find the same patients; before there is a run.json, another seed divides anew."""
    out = tmp_path / "out"
    asked = recipe(raw, "random", sites=2)

    first = [groups_of(tmp_path / d)[:2] for d in raw_datasets(asked, out)]
    other = [groups_of(tmp_path / d)[:2] for d in raw_datasets(recipe(raw, "random", sites=2, seed=6), out)]
    (out / "run.json").write_text("{}")
    kept = [groups_of(tmp_path / d)[:2] for d in raw_datasets(asked, out)]

    assert first != other == kept


def test_a_patient_with_two_values_is_refused(tmp_path, raw):
    """A patient is at one site only; the error names it."""
    table = raw / "patients.csv"
    table.write_text(table.read_text().replace("c03,p1,Small 1", "c03,p1,large"))

    with pytest.raises(ConfigError, match="patient p1 has several values of scanner: Small 1, large"):
        raw_datasets(recipe(raw, "by-column=scanner"), tmp_path / "out")


def test_a_case_without_a_value_is_refused(tmp_path, raw):
    """Another table, which lacks cases; and one that is not there."""
    other = tmp_path / "other.csv"
    other.write_text("case,patient,scanner\nc00,p0,x\n")

    with pytest.raises(ConfigError, match="no scanner for c01"):
        raw_datasets(recipe(raw, "by-column=scanner", table=str(other)), tmp_path / "out")
    with pytest.raises(ConfigError, match="there is no table"):
        raw_datasets(recipe(raw, "by-column=scanner", table=str(tmp_path / "none.csv")), tmp_path / "out")


def test_values_are_sorted():
    """So that the same table always gives the same sites."""
    assert by_value({"b": "y", "a": "y", "c": "x"}) == {"x": ["c"], "y": ["a", "b"]}


def test_without_patients_each_case_is_one_and_that_is_said(tmp_path, raw):
    """Nobody knows better, but a reader must know."""
    (raw / "patients.csv").unlink()

    datasets = raw_datasets(recipe(raw, "random", sites=2), tmp_path / "out")

    assert sum(len(groups_of(tmp_path / d)[0]) for d in datasets) == 12
    assert "each case counts as a patient" in (tmp_path / "out" / "raw-split" / "sites.md").read_text()
