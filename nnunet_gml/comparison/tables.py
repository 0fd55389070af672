"""The comparison as files: scores.csv, scores.parquet, summary.md, summary.json."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_gml.comparison.summary import Summary
from nnunet_gml.markdown import markdown_table
from nnunet_gml.stats import p_text
from nnunet_gml.versions import installed_versions

if TYPE_CHECKING:
    from pandas import DataFrame, Series

ARM_HEADS = ("arm", "Dice", "NSD", "HD95, mm", "volume error, ml", "gain", "p", "effect")
WORST_HEADS = ("worst site", "worst class")
SHORT_HEADS = ("arm", "Dice", "NSD", "HD95, mm", "gain", "p")


def write_scores(out: Path, scores: DataFrame) -> list[Path]:
    """Write scores.csv and, where pyarrow is installed, scores.parquet; the files that were written.

    One row per site, arm, case and class; empty (null) where nothing is defined.
    """
    written = [out / "scores.csv"]
    scores.to_csv(written[0], index=False)
    if importlib.util.find_spec("pyarrow"):
        written.append(out / "scores.parquet")
        scores.to_parquet(written[1], index=False)
    return written


def write_summary(out: Path, summary: Summary, command: str) -> list[Path]:
    """Write summary.md and summary.json; the files that were written."""
    written = [out / "summary.md", out / "summary.json"]
    written[0].write_text(markdown(summary, command))
    written[1].write_text(json.dumps(as_json(summary, command), indent=1, allow_nan=False) + "\n")
    return written


def as_json(summary: Summary, command: str) -> dict[str, Any]:
    """Every table as a list of records; null where nothing can be said."""
    frames = {name: getattr(summary, name) for name in ("arms", "sites", "classes", "groups", "matrix")}
    return {
        "command": command,
        "versions": installed_versions(),
        "baseline": summary.baseline,
        "tolerance_mm": dict(summary.tolerance_mm),
        "small_ml": summary.small_ml,
        **{name: None if frame is None else _records(frame) for name, frame in frames.items()},
        "notes": list(summary.notes),
    }


def _records(frame: DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records


def markdown(summary: Summary, command: str) -> str:
    """The summary for people."""
    paragraphs = [
        "# Comparison",
        f"Gains are Dice minus that of `{summary.baseline}` in the same cases; [95 % interval]; "
        "p: Wilcoxon, paired by patient, Holm's correction; effect: rank-biserial correlation, -1 to 1. "
        f"NSD: tolerance {tolerance_words(summary)}.",
        _rows((*ARM_HEADS, *WORST_HEADS), [arm_cells(row) for _, row in summary.arms.iterrows()]),
        "## By site: Dice (gain)",
        _crossed(summary.sites, "site"),
        f"## By class: Dice (gain); small: median below {summary.small_ml:g} ml",
        _crossed(summary.classes, "class"),
    ]
    if len(summary.groups):
        paragraphs += ["## Small and other organs: Dice (gain)", _crossed(summary.groups, "group")]
    if summary.matrix is not None:
        paragraphs += [
            "## Network of a site (row) on the cases of a site (column): Dice",
            _matrix(summary.matrix),
        ]
    if summary.notes:
        paragraphs += ["## To be read with this", "\n".join(f"- {_escaped(note)}" for note in summary.notes)]
    versions = ", ".join(f"{name} {number}" for name, number in installed_versions().items())
    paragraphs += ["## How it was made", f"```\n{command}\n```", versions]
    return "\n\n".join(paragraphs) + "\n"


def tolerance_words(summary: Summary) -> str:
    """The tolerance, or the tolerances by class.

    >>> from types import SimpleNamespace
    >>> tolerance_words(SimpleNamespace(tolerance_mm={"eyes": 1.0, "chin": 2.0}))
    '1 mm (eyes), 2 mm (chin)'
    """
    by_size: dict[float, list[str]] = {}
    for name, size in summary.tolerance_mm.items():
        by_size.setdefault(size, []).append(name)
    if len(by_size) == 1:
        return f"{next(iter(by_size)):g} mm"
    return ", ".join(f"{size:g} mm ({', '.join(names)})" for size, names in by_size.items())


def arm_cells(row: Series[Any]) -> list[str]:
    """One arm's line of text, as `ARM_HEADS` and `WORST_HEADS`."""
    return [
        str(row["arm"]),
        *(_interval(row, name, places) for name, places in (("dice", 3), ("nsd", 3), ("hd95_mm", 1))),
        _interval(row, "volume_error_ml", 1),
        _interval(row, "gain", 3, sign="+"),
        p_text(row["p"]),
        _number(row["effect"], "+.2f"),
        *(_named(row, f"worst_{key}") for key in ("site", "class")),
    ]


def short_cells(row: Series[Any]) -> list[str]:
    """The same for a terminal, as `SHORT_HEADS`."""
    cells = dict(zip((*ARM_HEADS, *WORST_HEADS), arm_cells(row), strict=True))
    return [cells[head].split(" ")[0] if head in ARM_HEADS[1:4] else cells[head] for head in SHORT_HEADS]


def _interval(row: Series[Any], name: str, places: int, sign: str = "") -> str:
    keys = (name, f"{name}_low", f"{name}_high")
    value, low, high = (_number(row[key], f"{sign}.{places}f") for key in keys)
    return value if low == "-" else f"{value} [{low}, {high}]"


def _named(row: Series[Any], key: str) -> str:
    return f"{row[key]} {row[f'{key}_gain']:+.3f}" if row[key] else "-"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _crossed(frame: DataFrame, key: str) -> str:
    """One row per site, class or group, one column per arm."""

    def cell(row: Series[Any]) -> str:
        gain = _number(row["gain"], "+.3f")
        return _number(row["dice"], ".3f") + ("" if gain == "-" else f" ({gain})")

    def title(name: str) -> str:
        small = "small" in frame and bool(frame.loc[frame[key] == name, "small"].iloc[0])
        return f"{name} (small)" if small else name

    return _grid(frame, (key, "arm"), cell, title)


def _matrix(frame: DataFrame) -> str:
    parts = []
    for arm, part in frame.groupby("arm", sort=False):
        grid = _grid(part, ("trained_at", "tested_at"), lambda row: _number(row["dice"], ".3f"), str)
        parts.append(f"{_escaped(str(arm))}:\n\n{grid}")
    return "\n\n".join(parts)


def _grid(
    frame: DataFrame, keys: tuple[str, str], cell: Callable[[Series[Any]], str], title: Callable[[str], str]
) -> str:
    down, across = (list(dict.fromkeys(frame[key])) for key in keys)
    cells = {(row[keys[0]], row[keys[1]]): cell(row) for _, row in frame.iterrows()}
    lines = [[title(name), *(cells.get((name, other), "-") for other in across)] for name in down]
    return _rows([keys[0].replace("_", " "), *across], lines)


def _rows(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown_table([list(map(_escaped, row)) for row in (heads, *lines)]).rstrip()


def _escaped(text: str) -> str:
    r"""Nothing that Markdown would take for a table's border, a tag or a line's end.

    >>> _escaped("a|b <i>")
    'a\\|b &lt;i>'
    """
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
