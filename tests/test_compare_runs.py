"""What `nnunet-gml compare` finds: runs of simulate, nnU-Net's output folders, folders of predictions."""

from __future__ import annotations

import json

import pytest
from comparison_kit import LABELS, TRUTH, dataset, off_by, write_cases, write_simulated

from nnunet_gml.comparison.predicted import class_names_of
from nnunet_gml.comparison.runs import find_predicted
from peer_sync.errors import ConfigError

ARMS = {
    "alone=nnUNetTrainer": {"north": {"n1": TRUTH, "n2": TRUTH}, "south": {"s1": TRUTH}},
    "mutual=nnUNetTrainerGML": {"north": {"n1": TRUTH, "n2": TRUTH}, "south": {"s1": TRUTH}},
    "pooled": {"north": {"n1": TRUTH, "n2": TRUTH}, "south": {"s1": TRUTH}},
}


def write_fold(
    results, trainer: str = "nnUNetTrainer", fold: str = "fold_0", cases=("a", "b"), references=None
):
    """A fold's output folder after its validation."""
    folder = results / "Dataset042_Head_Neck" / f"{trainer}__nnUNetPlans__3d_fullres" / fold
    write_cases(folder / "validation", dict.fromkeys(cases, TRUTH))
    (folder.parent / "dataset.json").write_text(json.dumps(dataset()))
    files = [{"reference_file": str((references or folder / "gone") / f"{case}.nii.gz")} for case in cases]
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": files}))
    return folder


@pytest.fixture
def references(tmp_path):
    """nnU-Net's copies of the reference segmentations."""
    return write_cases(tmp_path / "gt", dict.fromkeys("abcd", TRUTH))


def test_a_simulation_has_every_arm_at_every_site(tmp_path):
    """With references, training and mail where they are; stock is the arm without anything of ours."""
    out = write_simulated(tmp_path, ARMS)
    mail = out / "sites" / "south" / "mail-mutual"
    fold = "nnUNet_results/Dataset505_south/mutual_sim__nnUNetPlans__3d_fullres/fold_0"
    for folder in (mail, out / "sites" / "south" / fold):
        folder.mkdir(parents=True)

    found = {(each.site, each.arm): each for each in find_predicted([out])}

    assert set(found) == {(site, arm) for site in ("north", "south") for arm in ("alone", "mutual", "pooled")}
    assert [arm for (site, arm), each in found.items() if each.is_stock and site == "north"] == ["alone"]
    mutual = found["south", "mutual"]
    assert (mutual.mail, mutual.training) == (mail, out / "sites" / "south" / fold)
    assert (found["south", "alone"].mail, found["north", "mutual"].training) == (None, None)
    assert mutual.cases == ("s1",) and mutual.reference("s1").exists() and mutual.is_own
    assert mutual.images == out / "raw" / "Dataset505_south" / "imagesTs"


def test_patients_are_those_of_the_raw_dataset(tmp_path):
    """Cases that patients.csv does not name are patients of their own."""
    out = write_simulated(tmp_path, ARMS)
    (out / "raw" / "Dataset505_north" / "patients.csv").write_text("case,patient\nn1,Ann\n")

    north = next(each for each in find_predicted([out]) if each.site == "north")

    assert (north.patient("n1"), north.patient("n2")) == ("Ann", "north/n2")


def test_an_interrupted_prediction_is_no_result(tmp_path):
    """A site whose held-out cases are not all predicted has not finished with that arm."""
    out = write_simulated(tmp_path, ARMS)
    (out / "sites" / "north" / "predictions" / "mutual" / "n2.nii.gz").unlink()

    found = [(each.site, each.arm) for each in find_predicted([out])]

    assert ("north", "mutual") not in found and ("south", "mutual") in found


def test_another_sites_network_is_known_as_such(tmp_path):
    """predictions/ARM@SITE holds what the network of SITE made of this site's cases."""
    out = write_simulated(tmp_path, {**ARMS, "alone@south": {"north": {"n1": TRUTH, "n2": TRUTH}}})

    crossed = [each for each in find_predicted([out]) if not each.is_own]

    assert [(each.site, each.arm, each.trained_at) for each in crossed] == [("north", "alone", "south")]
    assert crossed[0].training is None


def test_folds_of_nnunet_are_found_in_any_folder_above(tmp_path, references):
    """The site is named as the dataset, the arm as the trainer; two folds are one arm of more cases."""
    results = tmp_path / "results"
    write_fold(results, references=references)
    write_fold(results, fold="fold_1", cases=("c", "d"), references=references)
    gml = write_fold(results, "nnUNetTrainerGML", references=references)
    half = write_fold(results, "nnUNetTrainerGMLFrozen", references=references)
    (half / "validation" / "summary.json").unlink()

    found = find_predicted([results])

    assert {each.site for each in found} == {"head-neck"}
    assert sorted((each.arm, each.cases) for each in found) == [
        ("nnUNetTrainer", ("a", "b")),
        ("nnUNetTrainer", ("c", "d")),
        ("nnUNetTrainerGML", ("a", "b")),
    ]
    ours = next(each for each in found if each.arm == "nnUNetTrainerGML")
    assert (ours.training, ours.references, ours.is_stock) == (gml, references, False)


def test_a_fold_takes_the_names_that_are_given(tmp_path, references):
    """Two hospitals may have one dataset name, and two runs one trainer."""
    fold = write_fold(tmp_path / "results", references=references)

    found = find_predicted([f"north={fold}", f"south:stock-again={fold}"])

    assert [(each.site, each.arm) for each in found] == [("north", "nnUNetTrainer"), ("south", "stock-again")]


def test_references_are_found_by_nnunets_variables(tmp_path, monkeypatch):
    """A results folder from another machine: its summary names paths that do not exist here."""
    fold = write_fold(tmp_path / "results")
    with pytest.raises(ConfigError, match=r"references of .* are not where") as caught:
        find_predicted([fold])
    assert "nnUNet_preprocessed" in caught.value.hint

    here = tmp_path / "preprocessed" / "Dataset042_Head_Neck" / "gt_segmentations"
    write_cases(here, {"a": TRUTH, "b": TRUTH})
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    raw = tmp_path / "raw" / "Dataset042_Head_Neck"
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "patients.csv").write_text("case,patient\na,Ann\n")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))

    (found,) = find_predicted([fold])

    assert (found.references, found.images, found.patient("a")) == (here, raw / "imagesTr", "Ann")


def test_folders_of_predictions_and_references(tmp_path):
    """From any tool; dataset.json lies beside the references, images by nnU-Net's names."""
    labels = write_cases(tmp_path / "raw" / "labelsTs", {"a": TRUTH})
    (tmp_path / "raw" / "imagesTs").mkdir()
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(dataset()))
    mine = write_cases(tmp_path / "mine", {"a": off_by(1)})

    own, crossed = find_predicted([f"north:mine={mine},{labels}", f"south@north:mine={mine},{labels}"])

    assert (own.site, own.arm, own.is_own, own.images) == (
        "north",
        "mine",
        True,
        tmp_path / "raw" / "imagesTs",
    )
    assert (crossed.site, crossed.trained_at, crossed.is_own) == ("north", "south", False)
    assert class_names_of([own, crossed]) == ("big", "tiny")
    assert own.classes == {name: value for name, value in LABELS.items() if value}


def test_places_without_anything_to_compare_are_errors(tmp_path):
    """Each says what was found and how a place is written."""
    labels = write_cases(tmp_path / "raw" / "labelsTs", {"a": TRUTH})
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(dataset()))
    extra = write_cases(tmp_path / "extra", {"a": TRUTH, "b": TRUTH})
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = {
        str(empty): "nothing in .*empty that can be compared",
        f"north:mine={empty},{labels}": r"no \*\.nii\.gz in",
        f"north={extra},{labels}": "have no arm",
        f"north:mine={tmp_path / 'gone'},{labels}": "there is no folder .*gone",
        f"North:mine={extra},{labels}": "'North:mine' is not SITE:ARM",
        f"north@south:mine={extra}": "predictions and references are two folders",
        f"north:mine={extra},{labels}": r"b\.nii\.gz has no reference",
    }
    for place, said in wrong.items():
        with pytest.raises(ConfigError, match=said):
            find_predicted([place])


def test_a_case_that_is_predicted_twice_is_an_error(tmp_path):
    """Two seeds of one site: which of them would count?"""
    out = write_simulated(tmp_path, ARMS)

    with pytest.raises(ConfigError, match="case n1 of site north is predicted twice by alone") as caught:
        find_predicted([out, out])
    assert "NAME=FOLDER" in caught.value.hint


def test_runs_of_several_seeds_stand_side_by_side(tmp_path):
    """The run's name goes before the sites'; the patients are the same, so the statistics know."""
    out = write_simulated(tmp_path, ARMS)

    found = find_predicted([out, f"two={out}"])

    assert {each.site for each in found} == {"north", "south", "two-north", "two-south"}
    assert {each.patient("n1") for each in found if each.site.endswith("north")} == {"north/n1"}
    assert all(each.is_own for each in found)
