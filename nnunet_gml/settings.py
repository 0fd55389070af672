"""Settings of a trainer: class attributes with simple values, some of which are one of a few words."""

import inspect
from typing import Literal, get_args, get_origin

from peer_sync.errors import ConfigError

Value = bool | int | float | str
"""What a trainer's class attribute may be set to."""


def settings_of(trainer: type) -> dict[str, Value]:
    """Class attributes with simple values that this project's (or a user's) trainers have, by name."""
    return {
        name: value
        for base in _bases(trainer)
        for name, value in vars(base).items()
        if isinstance(value, Value) and not name.startswith("_")
    }


def choices_of(trainer: type) -> dict[str, tuple[Value, ...]]:
    """What a setting may be where the class that brought it in lists that (``Literal``), by name."""
    hints: list[tuple[str, object]] = [
        item for base in _bases(trainer) for item in inspect.get_annotations(base).items()
    ]
    return {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}


def check_choices(trainer: object) -> None:
    """Make sure that every setting of a trainer with `choices_of` is one of them.

    Raises:
        ConfigError: one is not.
    """
    for name, choices in choices_of(type(trainer)).items():
        value = getattr(trainer, name)
        if value not in choices:
            raise ConfigError(
                f"{name} of {type(trainer).__name__} is {value!r}", f"it must be {listed(choices)}"
            )


def listed(choices: tuple[Value, ...]) -> str:
    """Values as they are written in Python: ``'gt' or 'union'``."""
    return " or ".join(map(repr, choices))


def _bases(trainer: type) -> list[type]:
    """The classes that a trainer is made of, nnU-Net's own left out, from the most general on."""
    bases = reversed(trainer.__mro__)
    return [base for base in bases if not base.__module__.startswith(("nnunetv2.", "builtins"))]
