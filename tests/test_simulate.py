"""The pure parts of `nnunet-gml simulate`: sites, recipe, generated classes, plans, processes."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_gml.commands import simulate
from nnunet_gml.simulation import arms, commands, steps
from nnunet_gml.simulation.processes import Job, Outcome, resume_script, run_side_by_side
from nnunet_gml.simulation.recipe import Arm, Recipe, claim
from nnunet_gml.simulation.shared_plans import halvings, small_configuration
from nnunet_gml.simulation.workspace import read_sites, slug
from peer_sync.errors import ConfigError

LABELS = {"background": 0, "organ": 1}


def recipe(**changes):
    """A small recipe."""
    settings = {
        "datasets": ("/raw/Dataset001_A",),
        "trainers": ("nnUNetTrainer",),
        "epochs": 3,
        "iterations": 10,
    }
    return Recipe(**{**settings, "seed": 5, **changes})


def raw_dataset(folder, name, labels=LABELS, held_out=("c",)):
    """The files of a raw dataset that are looked at before nnU-Net starts; images are empty files."""
    raw = folder / name
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (raw / part).mkdir(parents=True)
    for case in held_out:
        (raw / "imagesTs" / f"{case}_0000.nii.gz").touch()
        (raw / "labelsTs" / f"{case}.nii.gz").touch()
    description = {"labels": labels, "channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    return str(raw)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("Dataset001_north", "north"), ("Dataset501_A_u8", "a-u8"), ("Dataset002__Sankt Anna!", "sankt-anna")],
)
def test_slug(dataset, name):
    """A site's name has small letters, digits and hyphens only, and no hyphen at an end."""
    assert slug(dataset) == name


def test_sites_of_good_datasets(tmp_path):
    """Each dataset becomes one site with a folder of its own."""
    datasets = [raw_dataset(tmp_path, name) for name in ("Dataset001_A", "Dataset002_B")]

    sites = read_sites(datasets, tmp_path / "out")

    assert [site.name for site in sites] == ["a", "b"]
    assert sites[1].folder == tmp_path / "out" / "sites" / "b"
    assert sites[1].dataset_id == "002"


def test_two_sites_of_one_name_are_refused(tmp_path):
    """The error names both datasets."""
    datasets = [raw_dataset(tmp_path, name) for name in ("Dataset001_A", "Dataset002_a")]

    with pytest.raises(ConfigError, match=r"Dataset001_A and .*Dataset002_a both make a site named 'a'"):
        read_sites(datasets, tmp_path / "out")


@pytest.mark.parametrize("missing", ["imagesTs", "labelsTs", "labelsTr", "dataset.json"])
def test_incomplete_dataset_is_refused(tmp_path, missing):
    """The error names what is missing."""
    raw = Path(raw_dataset(tmp_path, "Dataset001_A"))
    (raw / missing).rename(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match=f"has no {missing}"):
        read_sites([str(raw)], tmp_path / "out")


def test_held_out_case_without_label_is_refused(tmp_path):
    """The error names the case."""
    raw = Path(raw_dataset(tmp_path, "Dataset001_A", held_out=("c", "d")))
    (raw / "labelsTs" / "d.nii.gz").unlink()

    with pytest.raises(ConfigError, match="no label for d"):
        read_sites([str(raw)], tmp_path / "out")


def test_held_out_label_without_image_is_refused(tmp_path):
    """Nobody would ever predict it; the error names the case."""
    raw = Path(raw_dataset(tmp_path, "Dataset001_A", held_out=("c", "d")))
    (raw / "imagesTs" / "d_0000.nii.gz").unlink()

    with pytest.raises(ConfigError, match="no image for d"):
        read_sites([str(raw)], tmp_path / "out")


def test_differing_labels_are_refused(tmp_path):
    """All sites need the same labels."""
    datasets = [
        raw_dataset(tmp_path, "Dataset001_A"),
        raw_dataset(tmp_path, "Dataset002_B", labels={"background": 0, "other": 1}),
    ]

    with pytest.raises(ConfigError, match="labels is"):
        read_sites(datasets, tmp_path / "out")


def test_run_folder_is_taken_up_only_by_its_own_recipe(tmp_path):
    """A new folder is taken; an old one needs --continue and the same recipe; a foreign one is refused."""
    record = claim(tmp_path, recipe(), continued=False)
    (tmp_path / "run.json").write_text(json.dumps(record))

    assert claim(tmp_path, recipe(), continued=True) == record
    with pytest.raises(ConfigError) as refused:
        claim(tmp_path, recipe(), continued=False)
    assert "--continue" in refused.value.hint
    with pytest.raises(ConfigError, match="another epochs"):
        claim(tmp_path, recipe(epochs=4), continued=True)
    (tmp_path / "run.json").unlink()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        claim(tmp_path, recipe(), continued=False)


def test_options_become_a_recipe(tmp_path):
    """Every option that changes results arrives in the recipe; trainers named twice run once."""
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    words = "raw --epochs 4 --iterations 7 --out o --trainer A --trainer B --trainer A --patch-size 32 40 48"

    made = simulate.recipe_of(parser.parse_args(words.split()))

    assert (made.epochs, made.iterations, made.trainers) == (4, 7, ("A", "B"))
    assert made.patch_size == (32, 40, 48)
    assert made.features is None
    assert made.trained_configuration() == "3d_small"
    assert made.datasets == (str(Path("raw").resolve()),)


def test_only_the_stock_arm_knows_nothing_of_rounds():
    """The stock arm's class sets no attribute of ours; a gossip arm's does; both compile."""
    settings = recipe(warmup_epochs=2, epochs_per_round=1)

    stock = arms.trainer_text(Arm("nnUNetTrainer", "nnUNetTrainer"), settings, 1, stock=True)
    gossip = arms.trainer_text(Arm("nnUNetTrainerGML", "nnUNetTrainerGML"), settings, 1, stock=False)

    assert "warmup_epochs" not in stock
    assert "    warmup_epochs = 2\n    epochs_per_round = 1\n" in gossip
    for text in (stock, gossip):
        compile(text, "arm.py", "exec")


def test_nnunet_finds_the_generated_class(tmp_path):
    """nnU-Net's own look-up returns a class of that name that is a trainer of the right base."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    text = arms.trainer_text(Arm("nnUNetTrainer", "nnUNetTrainer"), recipe(), 1, stock=True)
    (tmp_path / "nnUNetTrainer_sim.py").write_text(text)

    found = recursive_find_python_class(
        str(tmp_path), "nnUNetTrainer_sim", None, cleanup_imports_from_base_folder=True
    )

    assert found.__name__ == arms.class_name("nnUNetTrainer")
    assert issubclass(found, nnUNetTrainer)


def test_unknown_trainer_is_refused():
    """The error lists the trainers there are."""
    with pytest.raises(ConfigError) as refused:
        arms.check_trainer("nnUNetTrainerGmL")

    assert "nnUNetTrainerGML" in refused.value.hint


def test_halvings_by_hand():
    """40 -> 20 -> 10 -> 5, which is odd; 12 -> 6, and 6 / 2 = 3 is below 4."""
    assert halvings([40, 12], most=9) == [[1, 1], [2, 2], [2, 1], [2, 1]]


def full_plans():
    """The fields of a plans file that a small configuration rests on."""
    kwargs = {
        "n_stages": 5,
        "features_per_stage": [32, 64, 128, 256, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 5,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 4,
        "n_conv_per_stage": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    full = {
        "patch_size": [64, 64, 64],
        "batch_size": 4,
        "spacing": [1.0, 1.0, 1.0],
        "architecture": architecture,
    }
    full["data_identifier"] = "nnUNetPlans_3d_fullres"
    return {"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": full}}


def test_nnunet_builds_the_small_network():
    """nnU-Net's PlansManager resolves the small configuration, and its network takes the patch."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = full_plans()
    settings = recipe(patch_size=(32, 40, 40), features=(4, 8, 16), batch_size=2)
    plans["configurations"]["3d_small"] = small_configuration(plans, settings)
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_small")
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, 2, False)
    logits = network(torch.zeros(1, 1, 32, 40, 40))

    assert logits.shape == (1, 2, 32, 40, 40)
    assert configuration.batch_size == 2
    assert configuration.data_identifier == "nnUNetPlans_3d_fullres"


def test_another_spacing_gets_its_own_data():
    """Resampled data must not overwrite those of the configuration inherited from."""
    small = small_configuration(full_plans(), recipe(spacing=(2.0, 2.0, 2.0)))

    assert small["data_identifier"] == "nnUNetPlans_3d_small"
    assert "architecture" not in small


def test_two_stages_are_refused():
    """With two stages nnU-Net's deep supervision divides 0 by 0, and the weights turn into nan."""
    with pytest.raises(ConfigError, match="2 stages"):
        small_configuration(full_plans(), recipe(features=(4, 8)))


@pytest.mark.parametrize("patch", [(32, 32), (9, 9, 9)])
def test_impossible_patch_is_refused(patch):
    """A patch with two axes for a 3d plan, and one that cannot be halved, are clear errors."""
    with pytest.raises(ConfigError):
        small_configuration(full_plans(), recipe(patch_size=patch, features=(4, 8)))


def python_job(folder, site, text, product="x.done"):
    """A job that runs a line of Python."""
    command = (sys.executable, "-c", text)
    return Job(
        site, command, {"WORD": "it's"}, folder / site / "logs" / "train-T.log", folder / site / product
    )


def test_a_killed_process_stops_no_other(tmp_path):
    """One of two processes kills itself: the other ends well, and the reason is told in words."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    killed = python_job(tmp_path, "a", "import os; os.kill(os.getpid(), 9)")
    well = python_job(tmp_path, "b", "import time; time.sleep(1); print('fine')")

    outcomes = {
        o.job.site: o for o in run_side_by_side([killed, well], 2, lambda: None, lambda outcome: None)
    }

    assert outcomes["a"].reason() == "killed by SIGKILL"
    assert outcomes["b"].exit_code == 0
    assert (well.is_done(), killed.is_done()) == (True, False)
    assert well.last_lines(1) == "fine"


def test_done_jobs_are_not_run_again(tmp_path):
    """A job whose product exists is left out."""
    done = python_job(tmp_path, "a", "raise SystemExit(1)")
    done.product.parent.mkdir()
    done.product.touch()

    assert run_side_by_side([done], 1, lambda: None, lambda outcome: None) == []


def test_resume_script_runs_the_command_with_c(tmp_path):
    """The script carries the site's variables and adds --c, once."""
    text = "import os, sys; print(os.environ['WORD'], sys.argv[1:])"
    script = tmp_path / "resume.sh"
    script.write_text(resume_script(python_job(tmp_path, "a", text)))

    shown = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True).stdout

    assert shown == "it's ['--c']\n"


def test_training_takes_up_a_checkpoint(tmp_path, monkeypatch):
    """--c is added once the fold has a checkpoint, and the site has its own folders and site file."""
    monkeypatch.setattr(commands, "command", lambda name: name)
    settings = recipe(trainers=("nnUNetTrainer", "nnUNetTrainerGML"))
    (site,) = read_sites([raw_dataset(tmp_path, "Dataset001_A")], tmp_path / "out")

    fresh = commands.train(site, tmp_path / "out" / "trainers", settings, "nnUNetTrainerGML")
    fresh.product.parent.mkdir(parents=True)
    (fresh.product.parent / "checkpoint_best.pth").touch()
    again = commands.train(site, tmp_path / "out" / "trainers", settings, "nnUNetTrainerGML")

    assert "--c" not in fresh.command
    assert again.command == (*fresh.command, "--c")
    assert fresh.variables["nnUNet_gml_site"] == str(site.folder / "site.toml")
    assert fresh.variables["nnUNet_extTrainer"].split(os.pathsep)[-1] == str(tmp_path / "out" / "trainers")


def test_each_exchanging_arm_has_its_own_mail(tmp_path):
    """A second arm must not collect what the first one offered."""
    settings = recipe(trainers=("nnUNetTrainer", "nnUNetTrainerGML", "nnUNetTrainerGMLFrozen"))
    (site,) = read_sites([raw_dataset(tmp_path, "Dataset001_A")], tmp_path / "out")

    mails = [site.mail(trainer).name for trainer in settings.trainers[1:]]

    assert mails == ["mail", "mail-nnUNetTrainerGMLFrozen"]


def test_reason_of_an_error():
    """An exit code that is no signal is told as it is."""
    assert Outcome(None, 3).reason() == "exit code 3"


def test_only_arms_without_exchange_train_one_after_the_other(tmp_path, monkeypatch):
    """Sites that meet must run together, however little memory there is."""
    limits = []
    monkeypatch.setattr(steps, "run_side_by_side", lambda jobs, limit, *rest: limits.append(limit) or [])
    datasets = [raw_dataset(tmp_path, name) for name in ("Dataset001_A", "Dataset002_B")]
    settings = recipe(trainers=("nnUNetTrainer", "nnUNetTrainerGML"))
    sites = read_sites(datasets, tmp_path / "out")
    for site in sites:
        site.folder.mkdir(parents=True)

    run = steps.Simulation(settings, tmp_path / "out", sites, jobs=1, record={}, side_by_side=1)
    for arm in settings.arms:
        run._train(arm)

    assert limits == [1, 2]
