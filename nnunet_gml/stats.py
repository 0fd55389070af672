"""Is a difference between two arms more than chance? Paired tests whose unit is the patient.

Scans of one patient are not independent: every function takes one entry per patient. The tests are
scipy's; only Holm's correction, which scipy lacks, is written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

RESAMPLES = 9999
MOST_DRAWN = 10_000_000
"""Patients drawn at once, over all resamples: bounds the memory, changes no interval."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def per_patient(differences: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Each patient's differences; nan (nothing to compare) is left out.

    >>> per_patient([("Ann", 0.25), ("Bob", 0.5), ("Ann", float("nan")), ("Ann", 0.0)])
    {'Ann': [0.25, 0.0], 'Bob': [0.5]}
    """
    grouped: dict[str, list[float]] = {}
    for patient, difference in differences:
        if not math.isnan(difference):
            grouped.setdefault(patient, []).append(difference)
    return grouped


def mean_difference(differences: Mapping[str, Sequence[float]]) -> float:
    """Mean over all cases of all patients; nan without any."""
    every = [difference for each in differences.values() for difference in each]
    return fmean(every) if every else math.nan


def gain(dice: float, other: float) -> float:
    """One Dice minus another of the same class in the same case.

    nan says that neither contour shows the class. Two nan are no pair (nan); one nan is a class rightly left
    out, 1, against a contour of nothing, 0.

    >>> gain(float("nan"), 0.0), gain(0.75, 0.5)
    (1.0, 0.25)
    """
    if math.isnan(dice) and math.isnan(other):
        return math.nan
    return (1.0 if math.isnan(dice) else dice) - (1.0 if math.isnan(other) else other)


def signed_rank_p(differences: Mapping[str, Sequence[float]]) -> float:
    """Two-sided p of Wilcoxon's paired signed-rank test, on one mean difference per patient.

    Exact for up to 50 patients without ties; patients without any difference are left out (Wilcoxon's
    own way). nan for no patient, 1 where nobody differs.

    Args:
        differences: per patient, of each of its cases.

    References:
        Wilcoxon (1945), Biometrics Bulletin 1(6); `scipy.stats.wilcoxon`.
    """
    from scipy.stats import wilcoxon

    means = [fmean(each) for each in differences.values() if each]
    if not means:
        return math.nan
    return float(wilcoxon([mean for mean in means if mean != 0]).pvalue) if any(means) else 1.0


def rank_biserial(differences: Mapping[str, Sequence[float]]) -> float:
    r"""Matched-pairs rank-biserial correlation: the effect size that belongs to `signed_rank_p`.

    .. math:: r = \frac{W^+ - W^-}{W^+ + W^-}

    with :math:`W^\pm` the sums of the ranks, by size, of positive and of negative mean differences, one per
    patient. 1: better in every patient; -1: worse in every one; 0: as much for as against. Patients without
    any difference are left out; nan without any patient, 0 where nobody differs.

    References:
        Kerby (2014), Comprehensive Psychology 3, 11.IT.3.1.
    """
    from scipy.stats import rankdata

    means = [fmean(each) for each in differences.values() if each]
    differing = [mean for mean in means if mean != 0]
    if not differing:
        return 0.0 if means else math.nan
    ranks = rankdata([abs(mean) for mean in differing])
    signed = [math.copysign(rank, mean) for rank, mean in zip(ranks, differing, strict=True)]
    return sum(signed) / float(sum(ranks))


def bootstrap_interval(
    differences: Mapping[str, Sequence[float]], level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean difference over cases; whole patients are drawn.

    With few patients (below about 20) such an interval is too narrow. nan for fewer than two patients.

    Args:
        differences: per patient, of each of its cases.
        level: share of intervals that are to contain the true mean.
        seed: of the resampling: equal seeds, equal intervals.

    References:
        Davison and Hinkley (1997), Bootstrap Methods and their Application; `scipy.stats.bootstrap`.
    """
    import numpy as np
    from scipy.stats import bootstrap

    clusters = [each for each in differences.values() if each]
    if len(clusters) < 2:
        return Interval(math.nan, math.nan)
    sums, counts = [sum(each) for each in clusters], [len(each) for each in clusters]
    found = bootstrap(
        (sums, counts),
        lambda sums, counts, axis: np.sum(sums, axis) / np.sum(counts, axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, MOST_DRAWN // len(clusters)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(*map(float, found.confidence_interval))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction: p values that may each be held against the level of the whole family.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) \, p_{(j)})

    with :math:`p_{(1)} \le \dots \le p_{(m)}`. nan (no test was made) stays nan and is not counted.

    References:
        Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected


def p_text(p: float) -> str:
    """A p value as tables show it.

    >>> p_text(0.25), p_text(1e-9), p_text(float("nan"))
    ('0.250', '< 0.001', '-')
    """
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
