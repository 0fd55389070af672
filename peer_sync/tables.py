"""Reads one TOML table strictly: unknown keys, missing keys and wrong types are errors that help."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from peer_sync.errors import ConfigError

T = TypeVar("T")
KIND_NAMES = {
    str: "text in quotes",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def parse_toml(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a TOML file; returns its content and its bytes. Raises `ConfigError`."""
    data = bytes_of(path)
    return toml_in(data, path), data


def bytes_of(path: Path, hint: str = "check path and rights") -> bytes:
    """The content of a file of this site. Raises `ConfigError` with the hint."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint=hint) from error


def toml_in(data: bytes, path: Path) -> dict[str, Any]:
    """What the bytes of the TOML file ``path`` say. Raises `ConfigError`."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="compare it with PROTOCOL.md") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that looks most like ``word``."""
    return get_close_matches(word, sorted(known), n=1, cutoff=0.0)[0]


@dataclass(frozen=True)
class Table:
    """One TOML table with the place it comes from.

    Attributes:
        content: the keys and values.
        where: how to name the place in an error, for example ``federation.toml, site 'north'``.
    """

    content: Mapping[str, Any]
    where: str

    def only(self, known: Iterable[str]) -> None:
        """Refuse keys that are not in ``known``, naming the nearest one that is."""
        known = tuple(known)
        for key in self.content:
            if key not in known:
                raise ConfigError(
                    f"{self.where}: unknown key {key!r}; the nearest known key is {nearest(key, known)!r}",
                    hint=f"known keys: {', '.join(known)}",
                )

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a key that must be there."""
        if key not in self.content:
            raise ConfigError(f"{self.where}: key {key!r} is missing", hint=f"{key} = {KIND_NAMES[kind]}")
        return self._typed(key, kind)

    def get(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key that may be left out."""
        return self._typed(key, kind) if key in self.content else default

    def text(self, key: str, most_characters: int, is_needed: bool = False) -> str:
        """A text that a terminal shows as it is; empty when the key is left out, where it may be."""
        value = self.need(key, str) if is_needed else self.get(key, str, "")
        if len(value) > most_characters or not value.isprintable():
            raise ConfigError(
                f"{self.where}: {key} is {value[:most_characters]!r}, expected one line of at most "
                f"{most_characters} printable characters",
                hint=f"change {key} there" + ", or leave it out" * (not is_needed),
            )
        return value

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of the known words; the first one when the key is left out."""
        value = self.get(key, str, known[0])
        if value not in known:
            raise ConfigError(
                f"{self.where}: {key} is {value!r}, expected one of {', '.join(map(repr, known))}",
                hint=f"leave it out for {known[0]!r}",
            )
        return value

    def words(self, key: str) -> tuple[str, ...] | None:
        """A list of non-empty, printable, different texts, or None when the key is left out."""
        if key not in self.content:
            return None
        values = self._typed(key, list)
        are_words = all(isinstance(value, str) and value and value.isprintable() for value in values)
        if not are_words or len(set(values)) != len(values):
            raise ConfigError(
                f"{self.where}: {key} is {values!r}, expected a list of different names",
                hint=f'for example {key} = ["brainstem", "parotid"]',
            )
        return tuple(values)

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self.content[key]
        if type(value) is not kind:
            raise ConfigError(
                f"{self.where}: {key} is {value!r}, expected {KIND_NAMES[kind]}",
                hint=f"change {key} there",
            )
        return value
