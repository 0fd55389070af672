"""benchmarks/headneck.py: six sites of real contours with computed images."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import distance_transform_edt


@pytest.fixture
def data(bench):
    """The folder with the real contours."""
    folder = bench("headneck").data_folder()
    if not (folder / "cases.csv").is_file():
        pytest.skip(f"no contours in {folder}")
    return folder


def head():
    """A small head: brain (18), a brainstem (1) below it, a canal (19) with its cord (2), a mandible (3)."""
    labels = np.zeros((24, 28, 26), np.uint8)
    labels[12:, 8:22, 6:20] = 18
    labels[8:14, 14:18, 11:15] = 1
    labels[:8, 16:22, 10:16] = 19
    labels[:8, 18:20, 12:14] = 2
    labels[4:10, 4:7, 8:18] = 3
    return labels


def test_missing_data_are_no_error(bench, tmp_path, monkeypatch, capsys):
    """Without the data the script says that it is skipped, and ends well."""
    monkeypatch.setenv("GML_DATA", str(tmp_path))

    assert bench("headneck").main(["--out", str(tmp_path / "raw")]) == 0
    assert capsys.readouterr().out.startswith("skipped: ")
    assert not (tmp_path / "raw").exists()


def test_nobody_is_in_two_places(bench):
    """30 patients, 20 with all organs: every site has its counts, no patient twice, tests are complete."""
    headneck = bench("headneck")
    patients = [f"p{number:02d}" for number in range(30)]

    shares = headneck.divide(patients, patients[:20], seed=3)

    everyone = [p for share in shares for group in vars(share).values() for p in group]
    assert len(everyone) == len(set(everyone))
    for site, share in zip(headneck.SITES, shares, strict=True):
        sizes = (len(share.training), len(share.validation), len(share.test))
        assert sizes == (site.training - 1, 1, site.test)
        assert set(share.test) <= set(patients[:20])
    assert shares == headneck.divide(patients, patients[:20], seed=3)
    assert shares != headneck.divide(patients, patients[:20], seed=4)


def test_sites_differ_in_rater_scanner_and_size(bench):
    """Both raters at three sites each, and no two scanners alike."""
    sites = bench("headneck").SITES

    assert sorted(site.rater for site in sites) == ["oncologist"] * 3 + ["radiographer"] * 3
    assert len({site.scanner for site in sites}) == len(sites)
    assert len({site.training for site in sites}) > 1


def test_a_shift_is_found_again(bench):
    """The same map, cropped one voxel later on two axes and one earlier on the third."""
    images = bench("headneck_images")
    labels = head()
    moved = images.placed(labels, (-1, 1, -1), (23, 29, 25))

    found = images.best_shift(labels, moved)

    assert found == (1, -1, 1)


def test_placing_by_hand(bench):
    """Voxels 1 2 3 moved by one in a grid of four: 0 1 2 3; moved back by one in a grid of two: 2 3."""
    placed = bench("headneck_images").placed
    row = np.array([[[1, 2, 3]]], np.uint8)

    assert placed(row, (0, 0, 1), (1, 1, 4)).ravel().tolist() == [0, 1, 2, 3]
    assert placed(row, (0, 0, -1), (1, 1, 2)).ravel().tolist() == [2, 3]


def test_tissue_by_hand(bench):
    """Bone, brain and air have their values; around the brain is skull, behind the margin there is air."""
    images = bench("headneck_images")
    labels = np.zeros((40, 60, 60), np.uint8)
    labels[18:22, 28:32, 28:32] = 18

    painted = images.tissue(labels, np.random.default_rng(1))

    assert painted[20, 30, 30] == images.ORGAN_HU[18]
    assert painted[20, 30, 33] == 800.0
    assert painted[0, 0, 0] == images.AIR_HU


def test_images_repeat_and_scanners_differ(bench):
    """Equal seeds give equal voxels; twice the gain is seen; nothing leaves the window."""
    images = bench("headneck_images")
    plain = images.Scanner(0.8, 2.5, 5, 1.0, 0, 0.0)
    weak = images.Scanner(0.8, 2.5, 5, 0.5, 0, 0.0)
    labels = head()

    first = images.synthesise(labels, labels, plain, (1, 2))
    again = images.synthesise(labels, labels, plain, (1, 2))
    other = images.synthesise(labels, labels, weak, (1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, images.synthesise(labels, labels, plain, (1, 3)))
    brain = labels == 18
    assert other[brain].mean() == pytest.approx(first[brain].mean() / 2, abs=3)
    assert (first.min(), first.max()) == images.WINDOW_HU


def test_both_maps_are_bent_alike(bench):
    """By 4 mm at most, and a voxel; equal maps stay equal, nothing is lost, another seed bends otherwise."""
    images = bench("headneck_images")
    labels = head()

    one, two = images.bent([labels, labels], np.random.default_rng(1))
    other = images.bent([labels, labels], np.random.default_rng(2))[0]

    assert np.array_equal(one, two) and not np.array_equal(one, labels) and not np.array_equal(one, other)
    assert set(np.unique(one)) == set(np.unique(labels))
    for value in np.unique(labels)[1:]:
        distance = distance_transform_edt(labels != value, sampling=images.SPACING_MM)
        assert distance[one == value].max() <= images.MOST_BEND_MM + images.SPACING_MM[0]


def test_a_structure_of_one_voxel_is_not_lost(bench):
    """Whatever the field does: a lens or a cochlea has few voxels more."""
    images = bench("headneck_images")
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[6, 6, 6] = 8

    for seed in range(8):
        assert (images.bent([labels], np.random.default_rng(seed))[0] == 8).any()


def test_streaks_are_dark_between_two_bones(bench):
    """Darker between two posts than beside them; where there is no bone there is nothing."""
    images = bench("headneck_images")
    anatomy = np.full((2, 60, 80), 40.0, np.float32)
    anatomy[0, 27:33, 10:16] = anatomy[0, 27:33, 64:70] = 1500.0

    shown = images.streaks(anatomy)

    assert np.abs(shown[anatomy < 500]).max() == pytest.approx(1)
    assert shown[0, 30, 40] < -0.1 < shown[0, 10, 40]
    assert shown[0, 30, 13] == pytest.approx(shown[0, 30, 67], rel=0.1)
    assert not shown[1].any()
    assert not images.streaks(np.full((1, 8, 8), 300.0, np.float32)).any()


def test_neither_raters_contour_is_in_the_image_alone(bench):
    """Where only one rater has the mandible, bone and what the other sees there are half each."""
    images = bench("headneck_images")
    one, two = head(), head()
    two[4:10, 4:7, 16:18] = 0

    anatomy = [images.tissue(labels, np.random.default_rng(1)) for labels in (one, two)]

    both = (anatomy[0] + anatomy[1]) / 2
    assert anatomy[0][6, 5, 17] == images.ORGAN_HU[3]
    assert both[6, 5, 17] == pytest.approx((images.ORGAN_HU[3] + anatomy[1][6, 5, 17]) / 2)
    assert both[6, 5, 10] == images.ORGAN_HU[3]


def test_real_patients_by_their_file(bench, data):
    """23 patients (one with two scans), 16 with all organs by both raters; three short scans left out."""
    scans, whole = bench("headneck").read_scans(data)

    assert (len(scans), sum(map(len, scans.values())), len(whole)) == (23, 24, 16)
    assert scans["0522c0727"] == ["0522c0727a", "0522c0727b"]


def test_a_real_site(bench, data, tmp_path):
    """nnU-Net layout: 15 classes, the own contours of the rater, patients named, split by patient."""
    headneck = bench("headneck")

    headneck.main(["--out", str(tmp_path), "--sites", "radio_b", "--seed", "2"])

    raw = tmp_path / "Dataset615_radio_b"
    about = json.loads((raw / "dataset.json").read_text())
    assert len(about["labels"]) == 16
    assert set(headneck.SMALL_ORGANS) < set(about["labels"])
    with (raw / "patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (fold,) = json.loads((raw / "splits_final.json").read_text())
    held_out = {path.name.removesuffix(".nii.gz") for path in (raw / "labelsTs").iterdir()}
    groups = [{row["patient"] for row in rows if row["case"] in part} for part in (*fold.values(), held_out)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert len(set.union(*groups)) == 3
    (case,) = held_out
    label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(raw / "labelsTs" / f"{case}.nii.gz")))
    own = headneck.bent_maps(data, case, seed=2)["radiographer"]
    assert np.array_equal(label, np.where(own <= 15, own, 0))
    assert len(np.unique(label)) == 16


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_at_a_small_size(bench, tmp_path, monkeypatch):
    """From contours to the page: two sites, two arms; the phantom where there are no contours."""
    headneck, evidence, plans = bench("headneck"), bench("evidence"), bench("evidence_plans")
    has_data = (headneck.data_folder() / "cases.csv").is_file()
    name = "headneck" if has_data else "headneck-phantom"
    experiment = plans.EXPERIMENTS[name]
    words = (
        "--epochs 2 --iterations 2 --warmup-epochs 1 --epochs-per-round 1 --mutual-epochs 1 "
        "--patch-size 32 32 32 --features 4 8 8 --batch-size 2 --no-mirroring"
    )
    small = dataclasses.replace(
        experiment, options=tuple(words.split()), prepare=two_sites(headneck, experiment)
    )
    monkeypatch.setitem(plans.EXPERIMENTS, name, small)

    code = evidence.main(
        [
            name,
            "--arms",
            "individual",
            "frozen_select",
            "--out",
            str(tmp_path / "runs"),
            "--page",
            str(tmp_path),
        ]
    )

    page = (tmp_path / experiment.page).read_text()
    assert code == 0
    assert page.count(f"{experiment.honest_name.capitalize()}.\n\n|") == 2  # at every table that has rows
    assert "| frozen_select |" in page


def two_sites(headneck, experiment):
    """The experiment's data, but of two sites."""

    def prepare(raw, seed):
        if experiment.page == "headneck.md":
            headneck.main(["--out", str(raw), "--seed", str(seed), "--sites", "radio_b", "radio_c"])
            return sorted(raw.glob("Dataset*"))
        return experiment.prepare(raw, seed)[:2]

    return prepare
