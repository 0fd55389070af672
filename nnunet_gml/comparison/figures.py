"""From scores to one line of a table: means with intervals, the gain over the baseline, its test and size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nnunet_gml import stats

if TYPE_CHECKING:
    from pandas import DataFrame

MEASURES = ("dice", "nsd", "hd95_mm", "volume_error_ml")
CASE = ["site", "case", "patient"]


def with_gains(scores: DataFrame, baseline: str) -> DataFrame:
    """The scores with the absolute volume error and a column ``gain``.

    ``gain`` is `nnunet_gml.stats.gain` over the baseline's Dice of the same class in the same case; nan for
    the baseline itself, and where the baseline has no such case.
    """
    pair = ["site", "case", "class"]
    others = scores.loc[scores["arm"] == baseline, [*pair, "dice"]]
    merged = scores.merge(others, "left", pair, suffixes=("", "_of_baseline"), indicator="pair")
    gains = map(stats.gain, merged["dice"], merged["dice_of_baseline"])
    has_pair = (merged["pair"] == "both") & (merged["arm"] != baseline)
    gained = merged.assign(gain=list(gains), volume_error_ml=merged["volume_error_ml"].abs())
    gained["gain"] = gained["gain"].where(has_pair)
    return gained.drop(columns=["dice_of_baseline", "pair"])


def figures(rows: DataFrame, intervals: Collection[str] = ("dice",)) -> dict[str, Any]:
    """Means over cases of the mean over classes, and the gain, of one arm's rows.

    Args:
        rows: of `with_gains`.
        intervals: the measures that get ``_low`` and ``_high``; the gain always does.

    Returns:
        Each measure; gain, gain_low, gain_high, p (not corrected), effect; patients, cases.
    """
    cases = rows.groupby(CASE, sort=False)[[*MEASURES, "gain"]].mean().reset_index()
    found: dict[str, Any] = {}
    for measure in (*MEASURES, "gain"):
        grouped = stats.per_patient(zip(cases["patient"], cases[measure].astype(float), strict=True))
        found[measure] = stats.mean_difference(grouped)
        if measure in (*intervals, "gain"):
            found[f"{measure}_low"], found[f"{measure}_high"] = stats.bootstrap_interval(grouped)
    found |= {"p": stats.signed_rank_p(grouped), "effect": stats.rank_biserial(grouped)}
    return found | {"patients": cases["patient"].nunique(), "cases": len(cases)}


def table(rows: DataFrame, keys: Sequence[str], intervals: Collection[str] = ("dice",)) -> DataFrame:
    """The `figures` of every group, in the order of first appearance; p is Holm's over all of them."""
    from pandas import DataFrame

    grouped: Iterable[tuple[tuple[Any, ...], DataFrame]] = rows.groupby(list(keys), sort=False)
    lines = [dict(zip(keys, key, strict=True)) | figures(part, intervals) for key, part in grouped]
    frame = DataFrame(lines, columns=None if lines else [*keys, *MEASURES, "gain", "p"])
    return frame.assign(p=stats.holm(frame["p"].tolist()))


def worst(frame: DataFrame, arm: str, key: str) -> tuple[str, float]:
    """Where an arm gains least: the name in column ``key``, and the gain; nan where nothing was compared."""
    known = frame[(frame["arm"] == arm) & frame["gain"].notna()]
    if known.empty:
        return "", float("nan")
    line = known.loc[known["gain"].idxmin()]
    return str(line[key]), float(line["gain"])
