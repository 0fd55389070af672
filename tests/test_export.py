"""A trained model as nnU-Net's zip: nnU-Net installs it and predicts with it, and it names no case."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK
import torch
from courier_kit import build_sites
from model_kit import CASES, HOST, trained_fold
from nnunet_kit import CONFIGURATION, folders
from test_nnunet_command import TRAINER, Command

from nnunet_gml.cli import main
from nnunet_gml.handover.sharing import export
from nnunet_gml.installed import command
from peer_sync.errors import ConfigError
from peer_sync.federation import load_federation

MODEL = f"Dataset901_north/nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"


@pytest.fixture
def site(tmp_path):
    """North, of a federation with south."""
    return build_sites(tmp_path)["north"]


@pytest.fixture
def fold(phantom_data, tmp_path, monkeypatch, site):
    """A trained fold of north."""
    return trained_fold(phantom_data(), tmp_path / "results", monkeypatch, site.federation.digest)


def contents(path: Path) -> dict[str, bytes]:
    """Everything in a zip, and everything in the zips in it."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    for name in [name for name in found if name.endswith(".pth")]:
        with zipfile.ZipFile(io.BytesIO(found[name])) as inner:
            found |= {f"{name}/{entry}": inner.read(entry) for entry in inner.namelist()}
    return found


def test_only_what_prediction_reads_is_in_the_zip(fold, tmp_path, site):
    """Weights, plans, channels and labels, and the card; in nnU-Net's layout."""
    export([fold], tmp_path / "model.zip", site)

    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = {name.removeprefix(f"{MODEL}/") for name in archive.namelist()}
    assert names == {
        "dataset.json",
        "plans.json",
        "model_card.json",
        "MODEL_CARD.md",
        "fold_0/checkpoint_final.pth",
    }


def test_nothing_in_the_zip_names_a_case_or_a_machine(fold, tmp_path, site):
    """Not in a file, not in the checkpoint, not as a path: looked for in every unpacked byte."""
    export([fold], tmp_path / "model.zip", site)

    for name, data in contents(tmp_path / "model.zip").items():
        for word in (*CASES, HOST, str(tmp_path), "nii.gz_0000"):
            assert word.encode() not in data and word not in name, (word, name)


def test_the_checkpoint_holds_numbers_only(fold, tmp_path, site):
    """It can be read without running code, and has neither optimiser nor log."""
    export([fold], tmp_path / "model.zip", site)

    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = archive.read(f"{MODEL}/fold_0/checkpoint_final.pth")
    content = torch.load(io.BytesIO(data), weights_only=True)
    before = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert set(content) == {
        "network_weights",
        "trainer_name",
        "inference_allowed_mirroring_axes",
        "init_args",
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in content["network_weights"].items())


def test_the_card_says_who_took_part(fold, tmp_path, site):
    """A peer whose weights were looked at and not used is not among them."""
    export([fold], tmp_path / "model.zip", site)

    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        card = json.loads(archive.read(f"{MODEL}/model_card.json"))
        text = archive.read(f"{MODEL}/MODEL_CARD.md").decode()
    assert card["sites"] == ["north", "south"]
    assert card["folds"][0]["peers"] == {"south": 2} and card["folds"][0]["rounds"] == 2
    assert card["federation"] == "demo" and card["federation_digest"] == site.federation.digest
    assert card["federation_version"] == site.federation.version
    assert card["versions"]["nnunetv2"].startswith("2.8")
    assert "| 0 | 12 | 2 | south (2) |" in text and site.federation.digest in text


def test_the_card_has_the_validations_dice_by_name(fold, tmp_path, site):
    """Of the summary only the means; a class without a value has none."""
    card = export([fold], tmp_path / "model.zip", site)

    assert card.folds[0].dice == {
        "brainstem": 0.8,
        "spinal-cord": None,
        "mandible": 0.25,
        "parotids": None,
        "eyes": None,
    }
    assert "| mandible | 0.250 |" in card.to_markdown()


def test_dice_can_be_withheld(fold, tmp_path, site, capsys):
    """By an option, and always where site.toml says that Dice is not shared."""
    site.path.write_text(site.path.read_text() + "share_dice = false\n")

    assert main(["export", str(fold), "-o", str(tmp_path / "a.zip"), "--no-dice"]) == 0
    assert main(["export", str(fold), "-o", str(tmp_path / "b.zip"), "--site", str(site.path)]) == 0

    assert capsys.readouterr().out.count("Dice of the validation: withheld.") == 2


def test_a_changed_federation_file_has_no_version_in_the_card(fold, tmp_path, site):
    """The digest is that of the training; the version of another file would be wrong."""
    path = site.federation.path
    path.write_text(path.read_text() + "\n")
    changed = replace(site, federation=load_federation(path))

    card = export([fold], tmp_path / "model.zip", changed)

    assert card.federation_version == 0 and card.federation_digest == site.federation.digest


def test_an_unfinished_fold_is_refused(fold, tmp_path, site):
    """No checkpoint_final.pth, no zip."""
    (fold / "checkpoint_final.pth").unlink()

    with pytest.raises(ConfigError, match="holds no trained fold"):
        export([fold], tmp_path / "model.zip", site)
    assert list(tmp_path.glob("*.zip")) == []


def test_nothing_is_overwritten(fold, tmp_path, site):
    """Not even an older zip."""
    (tmp_path / "model.zip").write_text("precious")

    with pytest.raises(ConfigError, match="nothing is overwritten"):
        export([fold], tmp_path / "model.zip", site)
    assert (tmp_path / "model.zip").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nnunet_installs_the_zip_and_predicts_with_it(phantom_data, tmp_path, monkeypatch):
    """From a real training with a peer to a contour, on a machine that has never heard of this plugin."""
    data = phantom_data()
    training = Command(tmp_path, data, monkeypatch)
    training.federate(CONFIGURATION)
    training.run(CONFIGURATION, "0")
    site = training.sites["north"]
    card = export([training.fold(CONFIGURATION)], tmp_path / "model.zip", site)
    assert card.folds[0].peers == {"south": 1}
    assert set(card.folds[0].dice) == set(card.classes)
    other = tmp_path / "other"
    other.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    environment |= folders(data, other)
    call(environment, "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")

    use = re.search(r"nnUNetv2_predict (.*)", (other / folder_of(card) / "MODEL_CARD.md").read_text())
    raw = data / "nnUNet_raw" / card.dataset
    words = use[1].replace("IMAGES", str(raw / "imagesTs")).replace("OUT", str(tmp_path / "out")).split()
    call(environment, "nnUNetv2_predict", *words, "-device", "cpu", "--disable_tta")

    (contour,) = (tmp_path / "out").glob("*.nii.gz")
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(contour))).shape == (32, 32, 32)
    for name, unpacked in contents(tmp_path / "model.zip").items():
        assert b"north_00" not in unpacked, name


def folder_of(card) -> str:
    assert card.trainer == TRAINER
    return f"{card.dataset}/{card.trainer}__{card.plans}__{card.configuration}"


def call(environment: dict, name: str, *words: object) -> None:
    done = subprocess.run(
        [command(name), *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
