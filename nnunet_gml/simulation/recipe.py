"""What a simulation is asked for: its recipe, the arms in it, and the run folder it may take."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_gml.settings import Value
from peer_sync.errors import ConfigError

STOCK = "nnUNetTrainer"
ENSEMBLE = "ensemble"
POOLED = "pooled"
WITHOUT_EXCHANGE = (ENSEMBLE, POOLED)
"""Arms that are made of stock nnU-Net: every individual model together; all training cases in one place."""
ASYNCHRONOUS, LOCK_STEP = CLOCKS = ("asynchronous", "lock-step")
"""Whether gossip waits for the peer's weights of the same round."""
SGD, ADAM = OPTIMIZERS = ("sgd", "adam")
BEFOREHAND = ("raw", "raw-split", "raw-split.part", "raw-shifted", "jobs")
"""What a run folder may hold before there is a run."""


@dataclass(frozen=True)
class Arm:
    """One line of the comparison: a trainer, with class attributes of its own.

    Attributes:
        name: letters, digits and ``_``; names the class, its folders and its column.
        trainer: the trainer's class; nnU-Net's own for `WITHOUT_EXCHANGE`.
        attributes: names and values of class attributes.
    """

    name: str
    trainer: str
    attributes: tuple[tuple[str, Value], ...] = ()

    @property
    def is_individual(self) -> bool:
        """Whether this is stock nnU-Net, each site alone: what gains are measured against."""
        return self.trainer == STOCK and not self.attributes and self.name not in WITHOUT_EXCHANGE

    @property
    def exchanges(self) -> bool:
        """Whether sites train side by side with a courier between them."""
        return self.trainer != STOCK


def parse_arm(words: str) -> Arm:
    """An arm from ``TRAINER``, ``NAME=TRAINER[,attribute=value...]``, ``ensemble`` or ``pooled``.

    >>> parse_arm("half=nnUNetTrainerGML,distillation_weight=0.5,uses_trust=false").attributes
    (('distillation_weight', 0.5), ('uses_trust', False))

    Raises:
        ConfigError: the text is none of these.
    """
    if words in WITHOUT_EXCHANGE:
        return Arm(words, STOCK)
    name, equals, rest = words.partition("=")
    trainer, *settings = (rest if equals else words).split(",")
    for what in (name, trainer):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", what):
            raise ConfigError(
                f"{what!r} in the arm {words!r} is no name", "write NAME=TRAINER,attribute=value"
            )
    if name in WITHOUT_EXCHANGE:
        raise ConfigError(f"the arm {name} has no trainer to choose", f"write --arm {name}, or another name")
    return Arm(name, trainer, tuple(parse_setting(text, f"the arm {words!r}") for text in settings))


def parse_setting(text: str, where: str) -> tuple[str, Value]:
    """Name and value of ``name=value``: a number, true or false, or a word.

    Raises:
        ConfigError: the text is not like that; ``where`` says what it is part of.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"{text!r} in {where} is not name=value")
    return name, _value(value)


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a simulation's numbers; two runs with equal recipes are the same run.

    Attributes:
        trainers: the arms, each as `parse_arm` reads it; a trainer's name alone is an arm.
        optimizer: ``sgd``, nnU-Net's, or ``adam``, that of its nnUNetTrainerAdam.
        mirroring: nnU-Net's augmentation by mirroring; without it, left and right can be told apart.
        foreground: share of a batch's patches that lie around a labelled voxel; nnU-Net's own is 0.33.
        unlabelled: ``SITE=ORGAN[,ORGAN]``: organs that a site's training labels lack.
        split: how one raw dataset becomes several sites, see `nnunet_gml.simulation.divisions`; or empty.
        sites: how many, where the split does not say.
        held_out: share of each site's patients, with a split.
        table: CSV with a column to split by; empty: the dataset's patients.csv.
        shifts: ``SITE=NAME=VALUE[,NAME=VALUE]``, see `nnunet_gml.simulation.shifts`.
        faults: ``SITE=FAULT:ROUNDS``, see `nnunet_gml.simulation.faults`.
        clock: one of `CLOCKS`.
        by_folder: sites read each other's outbox in the run folder, not by SFTP.
    """

    datasets: tuple[str, ...]
    trainers: tuple[str, ...]
    epochs: int
    iterations: int
    seed: int
    device: str = "cpu"
    configuration: str = "3d_fullres"
    fold: str = "0"
    patch_size: tuple[int, ...] | None = None
    features: tuple[int, ...] | None = None
    batch_size: int | None = None
    spacing: tuple[float, ...] | None = None
    learning_rate: float | None = None
    optimizer: str = SGD
    warmup_epochs: int | None = None
    epochs_per_round: int | None = None
    mutual_epochs: int | None = None
    mirroring: bool = True
    foreground: float | None = None
    unlabelled: tuple[str, ...] = ()
    split: str = ""
    sites: int | None = None
    held_out: float = 0.25
    table: str = ""
    shifts: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    clock: str = ASYNCHRONOUS
    by_folder: bool = False

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms. Raises `ConfigError` where one cannot be read."""
        return tuple(parse_arm(words) for words in self.trainers)

    def missing_organs(self) -> dict[str, tuple[str, ...]]:
        """The organs that each site named in ``unlabelled`` does not contour.

        Raises:
            ConfigError: an entry is not ``SITE=ORGAN[,ORGAN]``, or names a site again.
        """
        missing: dict[str, tuple[str, ...]] = {}
        for entry in self.unlabelled:
            site, _, organs = entry.partition("=")
            if site in missing or not all((site, *organs.split(","))):
                raise ConfigError(f"{entry!r} is not SITE=ORGAN[,ORGAN]", "name each site once")
            missing[site] = tuple(organs.split(","))
        return missing

    def is_small(self) -> bool:
        """Whether the plans get a smaller configuration of their own."""
        overrides = (self.patch_size, self.features, self.batch_size, self.spacing)
        return any(value is not None for value in overrides)

    def trained_configuration(self) -> str:
        """The configuration that is trained: the one asked for, or the small one made from it."""
        return f"{self.configuration.split('_')[0]}_small" if self.is_small() else self.configuration

    def as_json(self) -> dict[str, Any]:
        """The recipe as it stands in run.json."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


DEFAULTS = {
    each.name: list(each.default) if isinstance(each.default, tuple) else each.default
    for each in fields(Recipe)
    if each.default is not MISSING
}
"""What a setting was in runs that are older than it."""


def claim(out: Path, recipe: Recipe, continued: bool) -> dict[str, Any]:
    """Take the run folder, or take it up again, and return the content of its run.json.

    A run that is continued may get further arms, and need not name all that it has; its record names
    all of them.

    Raises:
        ConfigError: the folder holds something else, another recipe's run, or this recipe's run
            without ``continued``; an arm is named twice, or differs from the run's arm of that name;
            there is an ensemble of no individual models, or pooling where organs are unlabelled.
    """
    record = out / "run.json"
    if record.exists():
        content: dict[str, Any] = json.loads(record.read_text())
        changed = differences(content["recipe"], recipe.as_json(), apart=("trainers",))
        if changed:
            raise ConfigError(f"{out} holds a run with another {', '.join(changed)}", "give another --out")
        if not continued:
            raise ConfigError(
                f"{out} holds this run already", "add --continue to take it up where it stopped"
            )
    else:
        foreign = sorted(path.name for path in out.glob("*") if path.name not in BEFOREHAND)
        if foreign:
            raise ConfigError(f"{out} is not empty ({foreign[0]}) and has no run.json", "give another --out")
        content = {"recipe": recipe.as_json()}
    known = content["recipe"]["trainers"]
    content["recipe"] = {**recipe.as_json(), "trainers": list(dict.fromkeys([*known, *recipe.trainers]))}
    _check_arms(content["recipe"]["trainers"], recipe.unlabelled)
    return content


def _check_arms(trainers: Sequence[str], unlabelled: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for words in trainers:
        name = parse_arm(words).name
        if name.lower() in seen:
            raise ConfigError(
                f"the arms {seen[name.lower()]!r} and {words!r} have one name",
                "give one of them another name",
            )
        seen[name.lower()] = words
    arms = [parse_arm(words) for words in trainers]
    if any(arm.name == ENSEMBLE for arm in arms) and not any(arm.is_individual for arm in arms):
        raise ConfigError("an ensemble needs the individual models", f"add --arm individual={STOCK}")
    if unlabelled and any(arm.name == POOLED for arm in arms):
        raise ConfigError(
            f"{POOLED} cannot be run where organs are unlabelled ({', '.join(unlabelled)})",
            "stock nnU-Net would learn them as background; leave out --arm pooled, or --unlabelled",
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], apart: Collection[str]) -> list[str]:
    """Names of the settings in which two recipes, as in run.json, differ, ``apart`` from those named."""
    before, after = {**DEFAULTS, **old}, {**DEFAULTS, **new}
    names = sorted((before.keys() | after.keys()) - set(apart))
    return [name for name in names if before.get(name) != after.get(name)]
