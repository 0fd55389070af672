"""What every site has said about itself in its signed manifests, kept over time: the federation's figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

from peer_sync.entries import bounded_lines
from peer_sync.errors import ConfigError
from peer_sync.manifest import RULES, Manifest, canonical, read_time
from peer_sync.names import SITE
from peer_sync.storage import append_line, size_of, sync_file, write_durably

log = logging.getLogger(__name__)

FOLDER = "figures"
MAX_BYTES = 2 << 20
"""Of one site's file; over it, the older half goes."""


@dataclass(frozen=True)
class Figure:
    """What one site said about the weights of one offer; its signature was checked when it came.

    They are that site's own words: nobody else can measure them.

    Attributes:
        site: who said it.
        sequence: number of the offer.
        created: when, by that site's clock.
        round: that site's round.
        epoch: epochs the weights were trained; where it falls, another training begins.
        plans_digest: of the plans it trains, 64 hex digits.
        federation_version: of its federation.toml.
        labelled: the classes it contours.
        cases: number of training cases; None when withheld.
        dice: Dice per class, 0 to 1, on its own validation patches (nnU-Net's running estimate); None when
            withheld. A class without a finite Dice is not in it.
    """

    site: str
    sequence: int
    created: datetime
    round: int
    epoch: int
    plans_digest: str
    federation_version: int
    labelled: tuple[str, ...]
    cases: int | None
    dice: dict[str, float] | None


FIELDS = tuple(field.name for field in fields(Figure))


class Figures:
    """One file for each site in ``figures``; each is written by one process, the one that moves its offers.

    Args:
        folder: the courier's folder, ``folder`` in site.toml.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self._known: dict[str, set[int]] = {}

    def note(self, manifest: Manifest) -> None:
        """Keep what a manifest says, once; a full disk costs it, with a warning, and not the exchange.

        Args:
            manifest: its signature is that of the site it names.
        """
        path = self.folder / f"{manifest.site}.jsonl"
        try:
            if manifest.site not in self._known:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._known[manifest.site] = {figure.sequence for figure in _read(path)}
            if manifest.sequence not in self._known[manifest.site]:
                self._append(path, manifest)
        except OSError as error:
            log.warning("cannot write into %s: %s", path, error.strerror)

    def _append(self, path: Path, manifest: Manifest) -> None:
        facts = json.loads(manifest.to_bytes())
        append_line(path, canonical({name: facts[name] for name in FIELDS}))
        if size_of(path) > MAX_BYTES:
            _drop_older_half(path)
        sync_file(path)
        self._known[manifest.site].add(manifest.sequence)


def read_figures(folder: Path) -> list[Figure]:
    """All figures of all sites: by site, each site's in the order of its offers. It only reads.

    Lines that are not what `Figures` writes are left out, whoever put them there.

    Args:
        folder: the courier's folder.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        paths = sorted(path for path in (folder / FOLDER).glob("*.jsonl") if SITE.fullmatch(path.stem))
        return [figure for path in paths for figure in _read(path)]
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}", hint="check rights") from error


def newest(figures: Iterable[Figure]) -> dict[str, Figure]:
    """The last figure of each site, by the order of its offers."""
    found: dict[str, Figure] = {}
    for figure in figures:
        if figure.site not in found or figure.sequence > found[figure.site].sequence:
            found[figure.site] = figure
    return found


def _read(path: Path) -> list[Figure]:
    """One site's figures, of each offer one, in their order. Raises OSError."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        found = [figure for line in bounded_lines(file) if (figure := _parse(line, path.stem)) is not None]
    return [figure for _, figure in sorted({figure.sequence: figure for figure in found}.items())]


def _parse(line: bytes, site: str) -> Figure | None:
    try:
        content = json.loads(line)
        if content["site"] != site or not all(RULES[name](content[name]) for name in FIELDS):
            return None
        facts = {name: content[name] for name in FIELDS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    created, labelled = read_time(facts["created"]), tuple(facts["labelled"])
    return Figure(**{**facts, "created": created, "labelled": labelled})


def _drop_older_half(path: Path) -> None:
    end = path.read_bytes()[-(MAX_BYTES // 2) - 1 :]
    _, _, whole_lines = end.partition(b"\n")
    write_durably(path, whole_lines)
