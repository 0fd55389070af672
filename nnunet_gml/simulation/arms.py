"""One arm of a simulation: a trainer with the run's length and seeds, as a class nnU-Net can find.

nnU-Net knows trainers by class name only and has no option for the number of epochs, so a shorter
run is a subclass. The text is the same for every arm but for the base class, so that all arms and
sites begin with the same weights, and every arm of a site draws the same patches in each epoch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from nnunet_gml.installed import trainers_folder
from nnunet_gml.simulation.workspace import Recipe, other_trainer_folders
from peer_sync.errors import ConfigError

TEMPLATE = '''"""Written by `nnunet-gml simulate`: {trainer} with this run's length and seeds."""

import random
import zlib

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_gml.gate import randomness_of

Base = recursive_find_trainer_class_by_name("{trainer}")


class {class_name}(Base):
    """{trainer} for {epochs} epochs of {iterations} iterations."""
{attributes}
    def initialize(self):
        """Set the run's length, then build the same initial weights in every arm and at every site."""
        self.num_epochs = {epochs}
        self.num_iterations_per_epoch = {iterations}
        self.num_val_iterations_per_epoch = {validation_iterations}
        self.save_every = {save_every}
{learning_rate}        torch.set_num_threads({threads})
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
'''


def class_name(trainer: str) -> str:
    """Name of an arm's class and module; never one of nnU-Net's own."""
    return f"{trainer}_sim"


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


def trainer_text(trainer: str, recipe: Recipe, threads: int, stock: bool) -> str:
    """The module with one arm's class. ``stock`` arms get no settings about exchanging."""
    settings: Mapping[str, int | None] = {
        "warmup_epochs": recipe.warmup_epochs,
        "epochs_per_round": recipe.epochs_per_round,
        "mutual_epochs": recipe.mutual_epochs,
    }
    lines = [f"    {name} = {value}\n" for name, value in settings.items() if value is not None]
    rate = f"        self.initial_lr = {recipe.learning_rate}\n" if recipe.learning_rate else ""
    return TEMPLATE.format(
        trainer=trainer,
        class_name=class_name(trainer),
        attributes="" if stock else "\n" + "".join(lines) if lines else "",
        epochs=recipe.epochs,
        iterations=recipe.iterations,
        validation_iterations=max(1, recipe.iterations // 5),
        learning_rate=rate,
        save_every=recipe.epochs_per_round or 10,
        threads=threads,
        seed=recipe.seed,
    )


def write_arms(folder: Path, recipe: Recipe, threads: int) -> None:
    """Write the class of every arm into the run's own trainers folder.

    Raises:
        ConfigError: one of the trainers does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for trainer in recipe.trainers:
        check_trainer(trainer)
        text = trainer_text(trainer, recipe, threads, is_stock(trainer))
        (folder / f"{class_name(trainer)}.py").write_text(text)
