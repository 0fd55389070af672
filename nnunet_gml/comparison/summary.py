"""What the scores say: every arm against the baseline, per site and per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunet_gml.comparison import notes
from nnunet_gml.comparison.figures import MEASURES, table, with_gains, worst
from nnunet_gml.comparison.predicted import Predicted
from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

DEFAULT_SMALL_ML = 2.0
"""Optic nerves, chiasm, lenses and cochleae are below; the next larger ones (eyes) are about 8 ml."""


@dataclass(frozen=True)
class Summary:
    """The comparison as tables; nan where nothing can be said.

    Means are over cases of the mean over classes; intervals are 95 % bootstrap intervals, whole patients
    drawn. A gain is an arm's Dice minus the baseline's on the same cases and classes, see
    `nnunet_gml.stats.gain`.
    ``arms``, ``classes`` and ``groups`` are over the sites that every arm has.

    Attributes:
        arms: one row per arm: arm; dice, nsd, hd95_mm, volume_error_ml (mean of the absolute error), each
            with ``_low`` and ``_high``; gain, gain_low, gain_high, p (Wilcoxon on patients' mean gains,
            Holm's over arms), effect (matched-pairs rank-biserial correlation, -1 to 1), patients, cases;
            worst_site, worst_site_gain, worst_class, worst_class_gain. The
            baseline has nan in all columns of gain.
        sites: site, arm; the same columns up to cases, but intervals for dice and gain only; p is Holm's over
            sites and arms.
        classes: class, arm, small (bool), reference_ml (median); the same columns as sites; p is Holm's over
            classes and arms.
        groups: of small and other organs: group (``small`` or ``other``), arm, the same columns as sites; no
            rows where all organs are small, or none.
        matrix: trained_at, tested_at, arm, dice; None where no site's network was tried on another's cases.
        baseline: the arm that gains are measured against.
        tolerance_mm: per class, of NSD.
        small_ml: classes whose median reference volume is below are small.
        notes: sentences on what was absent, left out, or cannot be told.
    """

    arms: DataFrame
    sites: DataFrame
    classes: DataFrame
    groups: DataFrame
    matrix: DataFrame | None
    baseline: str
    tolerance_mm: Mapping[str, float]
    small_ml: float = DEFAULT_SMALL_ML
    notes: tuple[str, ...] = ()


def choose_baseline(predicted: Sequence[Predicted], wanted: str | None = None) -> str:
    """The arm that gains are measured against: the one that is wanted, the stock one, or the only one.

    Raises:
        ConfigError: there is no such arm, or not exactly one that is stock nnU-Net.
    """
    if wanted:
        return known_arm(predicted, wanted, "--baseline")
    stock = dict.fromkeys(each.arm for each in predicted if each.is_stock)
    found = list(stock) or _arms_of(predicted)
    if len(found) != 1:
        raise ConfigError(
            f"{len(stock) or 'none'} of the arms are stock nnU-Net: {', '.join(_arms_of(predicted))}",
            "name what gains are measured against: --baseline ARM",
        )
    return found[0]


def known_arm(predicted: Sequence[Predicted], arm: str, option: str) -> str:
    """An arm that an option names. Raises `ConfigError` if nothing was predicted by it."""
    arms = _arms_of(predicted)
    if arm not in arms:
        raise ConfigError(f"{option}: there is no arm {arm!r}", f"the arms are {', '.join(arms)}")
    return arm


def _arms_of(predicted: Sequence[Predicted]) -> list[str]:
    return list(dict.fromkeys(each.arm for each in predicted))


def summarise(
    scores: DataFrame,
    baseline: str,
    tolerance_mm: Mapping[str, float] | None = None,
    small_ml: float = DEFAULT_SMALL_ML,
) -> Summary:
    """Compare every arm with the baseline.

    Args:
        scores: of `nnunet_gml.comparison.measures.measure`.
        baseline: one of the arms.
        tolerance_mm: what NSD was measured with; only handed on.
        small_ml: classes whose median reference volume is below are small.
    """
    judged = contoured(scores)
    own = judged[judged["trained_at"] == judged["site"]]
    kept = _cases_of_all(own)
    shared = _sites_of_all(kept)
    sites = table(with_gains(kept, baseline), ["site", "arm"])
    gained = with_gains(shared, baseline)
    classes = _classes(gained, small_ml)
    said = (
        *notes.on_not_contoured(scores, judged),
        *notes.on_left_out(own, kept, shared),
        *notes.on_absence(kept),
        *notes.on_numbers(shared),
    )
    return Summary(
        arms=_arms(gained, sites, classes),
        sites=sites,
        classes=classes,
        groups=_groups(gained, classes),
        matrix=_matrix(judged),
        baseline=baseline,
        tolerance_mm=tolerance_mm or {},
        small_ml=small_ml,
        notes=said,
    )


def contoured(scores: DataFrame) -> DataFrame:
    """The scores without the classes that no reference of a site shows.

    There a prediction of the class is not wrong: the site may not contour it.
    """
    return scores[~scores.groupby(["site", "class"])["absent_reference"].transform("all")]


def _cases_of_all(scores: DataFrame) -> DataFrame:
    """The cases that all arms of their site have."""
    arms = scores.groupby("site")["arm"].transform("nunique")
    return scores[scores.groupby(["site", "case"])["arm"].transform("nunique") == arms]


def _sites_of_all(scores: DataFrame) -> DataFrame:
    """The sites that all arms have."""
    return scores[scores.groupby("site")["arm"].transform("nunique") == scores["arm"].nunique()]


def _arms(gained: DataFrame, sites: DataFrame, classes: DataFrame) -> DataFrame:
    arms = table(gained, ["arm"], MEASURES)
    shared = sites[sites["site"].isin(gained["site"].unique())]
    for key, frame in (("site", shared), ("class", classes)):
        pairs = [worst(frame, arm, key) for arm in arms["arm"]]
        arms[f"worst_{key}"] = [name for name, _ in pairs]
        arms[f"worst_{key}_gain"] = [least for _, least in pairs]
    return arms


def _classes(gained: DataFrame, small_ml: float) -> DataFrame:
    present = gained[~gained["absent_reference"]]
    once = present.drop_duplicates(["site", "case", "class"])
    median = once.groupby("class")["reference_ml"].median()
    classes = table(gained, ["class", "arm"])
    classes.insert(2, "reference_ml", classes["class"].map(median).astype(float))
    classes.insert(2, "small", classes["reference_ml"] < small_ml)
    return classes


def _groups(gained: DataFrame, classes: DataFrame) -> DataFrame:
    small = set(classes.loc[classes["small"], "class"])
    group = gained["class"].isin(small).map({True: "small", False: "other"})
    rows = gained.assign(group=group) if group.nunique() == 2 else gained.iloc[:0].assign(group="")
    return table(rows, ["group", "arm"])


def _matrix(scores: DataFrame) -> DataFrame | None:
    """Dice of every network on every site's cases, for the arms of which such predictions are there."""
    crossed = scores.loc[scores["trained_at"] != scores["site"], "arm"].unique()
    if not len(crossed):
        return None
    rows = scores[scores["arm"].isin(crossed)].rename(columns={"site": "tested_at"})
    cases = rows.groupby(["trained_at", "tested_at", "arm", "case"], sort=False)["dice"].mean()
    return cases.groupby(level=[0, 1, 2], sort=False).mean().reset_index()
