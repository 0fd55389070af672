"""The arms of a simulation: how they are written, checked, taken up again, and turned into classes."""

import argparse
import json

import pytest
import torch

from nnunet_gml.commands import simulate
from nnunet_gml.simulation import arms, commands
from nnunet_gml.simulation.recipe import DEFAULTS, Arm, Recipe, claim, parse_arm
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError

STOCK = "nnUNetTrainer"
GML = "nnUNetTrainerGML"


def recipe(*trainers, **changes):
    """A small recipe."""
    return Recipe(
        **{"datasets": (), "trainers": trainers, "epochs": 1, "iterations": 1, "seed": 5, **changes}
    )


def test_an_arm_as_it_is_written():
    """Numbers, true and false, and words; a trainer alone is an arm of its own name."""
    words = "half=nnUNetTrainerGML,distillation_weight=0.5,mutual_epochs=2,uses_trust=false,mask=gt"

    arm = parse_arm(words)

    values = {"distillation_weight": 0.5, "mutual_epochs": 2, "uses_trust": False, "mask": "gt"}
    assert (arm.name, arm.trainer, dict(arm.attributes)) == ("half", GML, values)
    assert parse_arm(GML) == Arm(GML, GML)


@pytest.mark.parametrize(
    "words", ["two words=T", "a=", "=T", "a=T,mask", "a=T,=1", "ensemble=T", "pooled=T", "a-b=T"]
)
def test_what_is_no_arm_is_refused(words):
    """The name becomes a class and a folder; ensemble and pooled have no trainer to choose."""
    with pytest.raises(ConfigError):
        parse_arm(words)


def test_roles_of_arms():
    """Gains are measured against plain stock training; only what is not stock has a courier."""
    kinds = {words: parse_arm(words) for words in (f"alone={STOCK}", "pooled", "ensemble", f"m={GML}")}

    assert [words for words, arm in kinds.items() if arm.is_individual] == [f"alone={STOCK}"]
    assert [words for words, arm in kinds.items() if arm.exchanges] == [f"m={GML}"]


def test_options_keep_the_order_of_arms():
    """--arm and --trainer fill one list; the other new options arrive in the recipe."""
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    words = f"raw --epochs 1 --out o --arm a={STOCK} --trainer {GML} --arm pooled --no-mirroring"

    made = simulate.recipe_of(parser.parse_args([*words.split(), "--unlabelled", "north=eyes"]))

    assert made.trainers == (f"a={STOCK}", GML, "pooled")
    assert (made.mirroring, made.missing_organs()) == (False, {"north": ("eyes",)})


@pytest.mark.parametrize("entry", ["north", "north=", "=eyes", "north=eyes,"])
def test_unlabelled_is_checked(entry):
    """SITE=ORGAN[,ORGAN] and nothing else."""
    with pytest.raises(ConfigError, match="SITE=ORGAN"):
        recipe(unlabelled=(entry,)).missing_organs()


def test_an_unknown_attribute_names_the_nearest():
    """A slip of the pen must not train an arm that differs in nothing."""
    with pytest.raises(ConfigError) as refused:
        arms.check_attributes(parse_arm(f"a={GML},distilation_weight=0.5"))

    assert "distillation_weight" in refused.value.hint


@pytest.mark.parametrize(
    "setting", ["mask=everywhere", "peer_learns=1", "mutual_epochs=0.5", "mask=1", "merge_exclude=norm"]
)
def test_a_value_of_another_kind_is_refused(setting):
    """Booleans, whole numbers and the words that the trainer lists."""
    with pytest.raises(ConfigError, match="in arm a"):
        arms.check_attributes(parse_arm(f"a={GML},{setting}"))


def test_good_attributes_pass():
    """A whole number may stand for a float; inherited attributes count."""
    arms.check_attributes(parse_arm("a=nnUNetTrainerGMLFrozen,distillation_weight=1,mask=union"))


def test_stock_has_nothing_to_set():
    """nnU-Net sets its numbers in its constructor: a class attribute would change nothing."""
    with pytest.raises(ConfigError, match="no attribute 'initial_lr'"):
        arms.check_attributes(parse_arm(f"a={STOCK},initial_lr=1"))


def test_attributes_become_class_attributes():
    """The arm's own value replaces the run's, and words are quoted."""
    arm = parse_arm(f"a={GML},mutual_epochs=3,mask=gt")

    text = arms.trainer_text(arm, recipe(mutual_epochs=1, warmup_epochs=2), 1, stock=False)

    assert "class a_sim(Base):" in text
    assert "    warmup_epochs = 2\n    mutual_epochs = 3\n    mask = 'gt'\n" in text
    compile(text, "arm.py", "exec")


def test_without_mirroring_is_nnunets_own_way():
    """The generated method returns what nnUNetTrainerNoMirroring returns, and forbids it at prediction."""
    text = arms.trainer_text(parse_arm(STOCK), recipe(mirroring=False), 1, stock=True)
    method = text[text.index("    def configure_rotation") :]

    class Base:
        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802 - nnU-Net's
            return "rotation", False, (8, 8, 8), (0, 1, 2)

    scope = {"Base": Base}
    exec(f"class Arm(Base):\n{method}", scope)
    arm = scope["Arm"]()

    assert arm.configure_rotation_dummyDA_mirroring_and_inital_patch_size() == (
        "rotation",
        False,
        (8, 8, 8),
        None,
    )
    assert arm.inference_allowed_mirroring_axes is None
    assert "mirroring_and" not in arms.trainer_text(parse_arm(STOCK), recipe(), 1, stock=True)


def test_adam_is_nnunets_own():
    """The generated method makes the optimiser and the schedule of nnUNetTrainerAdam."""
    text = arms.trainer_text(parse_arm(STOCK), recipe(optimizer="adam"), 1, stock=True)
    scope: dict = {}
    exec(f"class Arm:\n{text[text.index('    def configure_optimizers') :]}", scope)
    arm = scope["Arm"]()
    arm.network, arm.initial_lr, arm.weight_decay, arm.num_epochs = torch.nn.Linear(1, 1), 0.003, 3e-5, 10

    optimizer, schedule = arm.configure_optimizers()

    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["lr"] == 0.003
    assert type(schedule).__name__ == "PolyLRScheduler"
    assert "configure_optimizers" not in arms.trainer_text(parse_arm(STOCK), recipe(), 1, stock=True)


def test_numbers_of_nnunets_constructor_are_set_before_it_initialises():
    """Learning rate and share of foreground patches, for stock arms too, ahead of super().initialize()."""
    text = arms.trainer_text(parse_arm(STOCK), recipe(learning_rate=0.5, foreground=1.0), 1, stock=True)

    lines = [line.strip() for line in text.splitlines()]
    before = lines[: lines.index("super().initialize()")]
    assert {"self.initial_lr = 0.5", "self.oversample_foreground_percent = 1.0"} <= set(before)
    assert "oversample" not in arms.trainer_text(parse_arm(STOCK), recipe(), 1, stock=True)


def taken(folder, *trainers, **changes):
    """The folder's record after a run with these arms."""
    record = claim(folder, recipe(*trainers, **changes), continued=True)
    (folder / "run.json").write_text(json.dumps(record))
    return record["recipe"]["trainers"]


def test_a_continued_run_may_get_further_arms(tmp_path):
    """Arms are added at the end; a call that names only some of them keeps the others in the record."""
    assert taken(tmp_path, f"a={STOCK}") == [f"a={STOCK}"]
    assert taken(tmp_path, f"b={GML}") == [f"a={STOCK}", f"b={GML}"]
    assert taken(tmp_path, f"a={STOCK}", "ensemble") == [f"a={STOCK}", f"b={GML}", "ensemble"]


def test_an_arm_cannot_change_under_its_name(tmp_path):
    """Its folder holds a training with other settings."""
    taken(tmp_path, f"a={GML},mask=gt")

    with pytest.raises(ConfigError, match="have one name"):
        taken(tmp_path, f"a={GML},mask=union")


def test_an_ensemble_needs_individual_models(tmp_path):
    """The hint says which arm is missing."""
    with pytest.raises(ConfigError) as refused:
        taken(tmp_path, "ensemble", f"m={GML}")

    assert f"individual={STOCK}" in refused.value.hint


def test_nothing_is_pooled_where_organs_are_unlabelled(tmp_path):
    """Stock nnU-Net would learn them as background: also as an arm that is added later."""
    with pytest.raises(ConfigError, match=r"pooled cannot be run .*north=eyes"):
        taken(tmp_path, "pooled", unlabelled=("north=eyes",))
    taken(tmp_path, STOCK, unlabelled=("north=eyes",))
    with pytest.raises(ConfigError, match="pooled cannot be run"):
        taken(tmp_path, "pooled", unlabelled=("north=eyes",))


def test_runs_older_than_a_setting_can_be_continued(tmp_path):
    """What run.json lacks was at its default then."""
    old = {name: value for name, value in recipe(STOCK).as_json().items() if name != "mirroring"}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": old}))

    assert DEFAULTS["mirroring"] is True
    assert taken(tmp_path, STOCK) == [STOCK]
    with pytest.raises(ConfigError, match="another mirroring"):
        taken(tmp_path, STOCK, mirroring=False)


def test_ensemble_uses_every_sites_own_network(tmp_path, monkeypatch):
    """Site a's cases, site b's network: b's results folder and dataset, a's images, probabilities kept."""
    monkeypatch.setattr(commands, "command", lambda name: name)
    a, b = (SiteSpace(n, tmp_path / f"Dataset00{k}_{n}", tmp_path / n) for k, n in enumerate("ab", start=1))

    job = commands.predict_probabilities(a, tmp_path / "trainers", recipe(STOCK), "alone", b)
    whole = commands.ensemble(a, tmp_path / "trainers", [a, b])

    options = dict(zip(job.command[1::2], job.command[2::2], strict=False))
    assert (options["-i"], options["-d"]) == (str(a.raw / "imagesTs"), b.dataset)
    assert job.variables["nnUNet_results"] == str(b.folder / "nnUNet_results")
    assert job.command[-1] == "--save_probabilities"
    assert options["-o"] in whole.command
    assert job.site == whole.site == "a"


@pytest.mark.parametrize(
    ("arm", "changes", "warmup"),
    [
        (f"a={GML}", {"epochs": 50}, 50),  # the trainer's own warm-up
        (f"a={GML},warmup_epochs=8", {"epochs": 8, "warmup_epochs": 2}, 8),
        ("nnUNetTrainerFedAvg", {"epochs": 3, "warmup_epochs": 4}, 4),
    ],
)
def test_an_arm_that_would_never_exchange_is_refused(tmp_path, arm, changes, warmup):
    """It would be stock training under another name; one epoch after the warm-up there is a first round."""
    asked = recipe(STOCK, arm, **changes)
    with pytest.raises(ConfigError, match=f"never exchange: {asked.epochs} epochs, of which {warmup} are"):
        arms.write_arms(tmp_path / "trainers", asked, 1)

    assert not (tmp_path / "trainers").exists()
    arms.write_arms(tmp_path / "trainers", recipe(STOCK, arm, **{**changes, "epochs": warmup + 1}), 1)
    arms.write_arms(tmp_path / "trainers", recipe(STOCK, "nnUNetTrainerNoDeepSupervision", "pooled"), 1)


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    """A second arm without a trainer: no folder, which would keep the next call out of the run folder."""
    with pytest.raises(ConfigError, match="no trainer nnUNetTrainerNone"):
        arms.write_arms(tmp_path / "trainers", recipe(STOCK, "a=nnUNetTrainerNone"), 1)

    assert not (tmp_path / "trainers").exists()
