"""One arm of a simulation: a trainer with the run's length and seeds, as a class nnU-Net can find.

nnU-Net knows trainers by class name only and has no option for the number of epochs, so a shorter
run is a subclass. The text is the same for every arm but for the base class and the attributes asked
for, so that all arms and sites begin with the same weights, and every arm of a site draws the same
patches in each epoch.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from nnunet_gml.installed import trainers_folder
from nnunet_gml.settings import Value, choices_of, listed, settings_of
from nnunet_gml.simulation.recipe import ADAM, ENSEMBLE, LOCK_STEP, Arm, Recipe
from nnunet_gml.simulation.workspace import other_trainer_folders
from peer_sync.errors import ConfigError

TEMPLATE = '''"""Written by `nnunet-gml simulate`: {trainer} with this run's length and seeds."""

import random
import zlib

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_gml.gate import randomness_of

Base = recursive_find_trainer_class_by_name("{trainer}")
{changes}

class {class_name}(Base):
    """{trainer} for {epochs} epochs of {iterations} iterations."""
{attributes}
    def initialize(self):
        """Set the run's length, then build the same initial weights in every arm and at every site."""
        self.num_epochs = {epochs}
        self.num_iterations_per_epoch = {iterations}
        self.num_val_iterations_per_epoch = {validation_iterations}
        self.save_every = {save_every}
{numbers}        torch.set_num_threads({threads})
        with randomness_of({seed}, "initial weights"):
            super().initialize()

    def on_train_epoch_start(self):
        """Draw the patches of this site and epoch, whatever the arm drew before."""
        super().on_train_epoch_start()
        seed = zlib.crc32(f"{seed}/{{self.plans_manager.dataset_name}}/{{self.current_epoch}}".encode())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def perform_actual_validation(self, save_probabilities=False):
        """Validate as nnU-Net does, but without mirroring: eight times as fast, and not what is reported."""
        self.inference_allowed_mirroring_axes = None
        super().perform_actual_validation(save_probabilities)
{methods}'''

WITHOUT_MIRRORING = '''
    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net's own nnUNetTrainerNoMirroring: a mirrored patch would show left as right."""
        rotation, dummy_2d, patch_size, _ = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, patch_size, None
'''

WITH_ADAM = '''
    def configure_optimizers(self):
        """As nnU-Net's own nnUNetTrainerAdam: learns rare classes in fewer steps."""
        from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam

        return nnUNetTrainerAdam.configure_optimizers(self)
'''

WITH_FAULTS = """
from nnunet_gml.simulation.faulty import with_faults

Base = with_faults(Base, {faults!r})
"""
IN_STEP = """
from nnunet_gml.simulation.clock import in_step

Base = in_step(Base)
"""


def class_name(arm: str) -> str:
    """Name of an arm's class and module, from the arm's; never one of nnU-Net's own."""
    return f"{arm}_sim"


def is_stock(trainer: str) -> bool:
    """Whether nnU-Net itself has this trainer."""
    package = importlib.util.find_spec("nnunetv2")
    assert package is not None and package.submodule_search_locations is not None
    return _is_defined(trainer, Path(package.submodule_search_locations[0]) / "training" / "nnUNetTrainer")


def check_trainer(trainer: str) -> None:
    """Make sure that nnU-Net will find the trainer.

    Raises:
        ConfigError: neither nnU-Net nor a folder of external trainers has it.
    """
    folders = [trainers_folder(), *other_trainer_folders()]
    if not is_stock(trainer) and not any(_is_defined(trainer, folder) for folder in folders):
        names = ", ".join(path.stem for path in sorted(trainers_folder().glob("nnUNetTrainer*.py")))
        raise ConfigError(f"there is no trainer {trainer}", f"known here: {names}, and nnU-Net's own")


def _is_defined(trainer: str, folder: Path) -> bool:
    return any(f"class {trainer}(" in path.read_text() for path in folder.rglob("*.py"))


def check_attributes(arm: Arm) -> None:
    """Make sure that the trainer has every class attribute that the arm sets, of that type.

    Imports the trainer, and so torch, if there is anything to check.

    Raises:
        ConfigError: an attribute is unknown, or its value is of another type than the trainer's.
    """
    if not arm.attributes:
        return
    trainer = trainer_class(arm.trainer)
    known, choices = settings_of(trainer), choices_of(trainer)
    for name, value in arm.attributes:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"the nearest known one is {nearest[0]}" if nearest else "it has none that an arm can set"
            raise ConfigError(f"{arm.trainer} has no attribute {name!r} (arm {arm.name})", hint)
        if not _fits(value, known[name]) or value not in choices.get(name, (value,)):
            expected = listed(choices.get(name, ())) or type(known[name]).__name__
            raise ConfigError(
                f"{name} of {arm.trainer} is {value!r} in arm {arm.name}", f"it must be {expected}"
            )


def _fits(value: Value, default: Value) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def trainer_class(trainer: str) -> type:
    """An external trainer by nnU-Net's own look-up; nnU-Net's own trainers have nothing to set.

    Imports the trainer, and so torch. Raises `ConfigError` where nnU-Net finds none.
    """
    if is_stock(trainer):
        return object
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    for folder in (trainers_folder(), *other_trainer_folders()):
        found = recursive_find_python_class(str(folder), trainer, None, cleanup_imports_from_base_folder=True)
        if isinstance(found, type):
            return found
    raise ConfigError(f"nnU-Net finds no class {trainer}")


def chosen_settings(arm: Arm, recipe: Recipe, stock: bool) -> dict[str, Value]:
    """The class attributes that a run and an arm set; ``stock`` arms get no settings about exchanging."""
    rounds: Mapping[str, Value | None] = {
        "warmup_epochs": recipe.warmup_epochs,
        "epochs_per_round": recipe.epochs_per_round,
        "mutual_epochs": recipe.mutual_epochs,
    }
    settings = {name: value for name, value in rounds.items() if value is not None and not stock}
    return settings | dict(arm.attributes)


def check_length(arm: Arm, recipe: Recipe) -> None:
    """Raise `ConfigError` where an arm that exchanges would end within its warm-up, as stock training.

    Imports the trainer, and so torch, where neither run nor arm says how long that is.
    """
    if not arm.exchanges:
        return
    chosen = chosen_settings(arm, recipe, is_stock(arm.trainer))
    if "warmup_epochs" not in chosen:
        chosen = settings_of(trainer_class(arm.trainer))
    warmup = chosen.get("warmup_epochs")
    if isinstance(warmup, int) and recipe.epochs <= warmup:
        raise ConfigError(
            f"arm {arm.name} would never exchange: {recipe.epochs} epochs, of which {warmup} are warm-up",
            "fewer --warmup-epochs (with --epochs 40, say: --warmup-epochs 16 --epochs-per-round 4 "
            "--mutual-epochs 2), or more --epochs",
        )


def trainer_text(arm: Arm, recipe: Recipe, threads: int, stock: bool) -> str:
    """The module with one arm's class, with its `chosen_settings`."""
    lines = [f"    {name} = {value!r}\n" for name, value in chosen_settings(arm, recipe, stock).items()]
    own = {"initial_lr": recipe.learning_rate, "oversample_foreground_percent": recipe.foreground}
    numbers = [f"        self.{name} = {value}\n" for name, value in own.items() if value is not None]
    return TEMPLATE.format(
        trainer=arm.trainer,
        class_name=class_name(arm.name),
        attributes="\n" + "".join(lines) if lines else "",
        epochs=recipe.epochs,
        iterations=recipe.iterations,
        validation_iterations=max(1, recipe.iterations // 5),
        numbers="".join(numbers),
        save_every=recipe.epochs_per_round or 10,
        threads=threads,
        seed=recipe.seed,
        methods=("" if recipe.mirroring else WITHOUT_MIRRORING)
        + (WITH_ADAM if recipe.optimizer == ADAM else ""),
        changes=_changes(recipe) if arm.exchanges else "",
    )


def _changes(recipe: Recipe) -> str:
    """What a run does to every trainer that exchanges."""
    faults = WITH_FAULTS.format(faults=recipe.faults) if recipe.faults else ""
    return faults + (IN_STEP if recipe.clock == LOCK_STEP else "")


def write_arms(folder: Path, recipe: Recipe, threads: int) -> None:
    """Write the class of every arm into the run's own trainers folder; nothing, if one cannot be.

    Raises:
        ConfigError: one of the trainers, or an attribute of one, does not exist; an arm would never exchange.
    """
    trained = [arm for arm in recipe.arms if arm.name != ENSEMBLE]
    for arm in trained:
        check_trainer(arm.trainer)
        check_attributes(arm)
        check_length(arm, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    for arm in trained:
        text = trainer_text(arm, recipe, threads, is_stock(arm.trainer))
        (folder / f"{class_name(arm.name)}.py").write_text(text)
