"""What each place of a simulation trains on: links, labels without organs, everything pooled."""

import json

import numpy as np
import pytest
import SimpleITK

from nnunet_gml.simulation.datasets import check_missing, lay_out, pool, pooled_place, seen_by
from nnunet_gml.simulation.loopback import write_federation
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError
from peer_sync.federation import load_federation

RECIPE = Recipe(datasets=(), trainers=("nnUNetTrainer",), epochs=1, iterations=1, seed=5)
WITHOUT_EYES = Recipe(
    datasets=(), trainers=("nnUNetTrainer",), epochs=1, iterations=1, seed=5, unlabelled=("a=eyes",)
)


def voxels(path):
    """The numbers of an image file."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


@pytest.fixture
def sites(tmp_path):
    """Two sites with five training cases each, and one held out; b has no split of its own."""
    made = []
    label = np.array([[[0, 1, 2, 2]]], np.uint8)
    for number, name in enumerate("ab", start=1):
        raw = tmp_path / f"Dataset00{number}_{name}"
        for part, cases in (("Tr", 5), ("Ts", 1)):
            for case in range(cases):
                for kind, ending in (("images", "_0000"), ("labels", "")):
                    (raw / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
                    path = raw / f"{kind}{part}" / f"{case}{ending}.nii.gz"
                    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label), str(path))
        labels = {"background": 0, "cord": 1, "eyes": 2}
        about = {"labels": labels, "channel_names": {"0": "MRI"}, "file_ending": ".nii.gz", "numTraining": 5}
        (raw / "dataset.json").write_text(json.dumps(about))
        made.append(SiteSpace(name, raw, tmp_path / "sites" / name))
    split = [{"train": ["0", "1", "2"], "val": ["3", "4"]}]
    (made[0].raw / "splits_final.json").write_text(json.dumps(split))
    return made


def test_an_organ_is_taken_from_training_labels_only(sites):
    """Labels 0 1 2 2 become 0 1 0 0 at site a; held-out labels, images and site b keep what they have."""
    lay_out(sites, WITHOUT_EYES)

    a, b = map(seen_by, sites)
    assert voxels(a / "labelsTr" / "0.nii.gz").ravel().tolist() == [0, 1, 0, 0]
    assert voxels(a / "labelsTs" / "0.nii.gz").ravel().tolist() == [0, 1, 2, 2]
    assert voxels(sites[0].raw / "labelsTr" / "0.nii.gz").ravel().tolist() == [0, 1, 2, 2]
    assert (a / "imagesTr").is_symlink()
    assert b.is_symlink()


def test_the_federation_says_what_a_site_does_not_contour(tmp_path, sites):
    """Site a contours the cord only; site b everything."""
    lay_out(sites, WITHOUT_EYES)

    write_federation(tmp_path, sites, WITHOUT_EYES, "0" * 64)

    members = load_federation(tmp_path / "federation.toml")
    assert members.member("a").labelled == ("cord",)
    assert members.member("b").labelled is None


@pytest.mark.parametrize(("entry", "named"), [("c=eyes", "no site c"), ("a=nose", "'nose'")])
def test_unknown_site_or_organ_is_refused(sites, entry, named):
    """The error names it."""
    recipe = Recipe((), ("nnUNetTrainer",), 1, 1, 5, unlabelled=(entry,))

    with pytest.raises(ConfigError, match=named):
        check_missing(sites, recipe)


def test_pooled_cases_keep_their_role(tmp_path, sites):
    """Ten cases under different names; a's by its own split (3 + 2), b's by the one nnU-Net makes (4 + 1)."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    lay_out(sites, RECIPE)
    place = pooled_place(tmp_path, sites)

    pool(place, sites, "0")

    (fold,) = json.loads((place.raw / "splits_final.json").read_text())
    of_b = generate_crossval_split([str(case) for case in range(5)])[0]
    assert set(fold["train"]) == {"a_0", "a_1", "a_2", *(f"b_{case}" for case in of_b["train"])}
    assert set(fold["val"]) == {"a_3", "a_4", *(f"b_{case}" for case in of_b["val"])}
    assert len(list((place.raw / "labelsTr").iterdir())) == 10
    assert voxels(place.raw / "labelsTr" / "a_0.nii.gz").ravel().tolist() == [0, 1, 2, 2]
    assert place.dataset_id not in {site.dataset_id for site in sites}


def test_the_pooled_fold_is_the_one_that_is_trained(tmp_path, sites):
    """nnU-Net takes the entry of that number; fold all needs no split."""
    split = [{"train": ["9"], "val": ["9"]}, {"train": ["0", "1"], "val": ["2"]}]
    for site in sites:
        (site.raw / "splits_final.json").write_text(json.dumps(split))
    lay_out(sites, RECIPE)
    place, other = pooled_place(tmp_path, sites), pooled_place(tmp_path / "other", sites)

    pool(place, sites, "1")
    pool(other, sites, "all")

    folds = json.loads((place.raw / "splits_final.json").read_text())
    assert folds[1] == {"train": ["a_0", "a_1", "b_0", "b_1"], "val": ["a_2", "b_2"]}
    assert not (other.raw / "splits_final.json").exists()
