"""Sentences on what a comparison cannot tell: organs that are absent, cases and sites that are left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FEW_PATIENTS = 20


def on_not_contoured(scores: DataFrame, judged: DataFrame) -> Iterator[str]:
    """Classes that were not judged at a site, see `nnunet_gml.comparison.summary.contoured`."""
    known = set(zip(judged["site"], judged["class"], strict=True))
    for site, name in dict.fromkeys(zip(scores["site"], scores["class"], strict=True)):
        if (site, name) not in known:
            yield f"No reference of {site} shows {name}: it is not judged there, perhaps it is not contoured."


def on_left_out(scores: DataFrame, kept: DataFrame, shared: DataFrame) -> Iterator[str]:
    """What was not compared.

    Args:
        scores: of every site's own networks.
        kept: the cases that all arms of their site have.
        shared: of those, the sites that all arms have.
    """
    for site, count in _count(scores).sub(_count(kept), fill_value=0).items():
        if count:
            cases = _number(int(count), "case")
            yield f"{site}: {cases} left out, because not every arm has predicted them."
    arms = kept.groupby("site", sort=False)["arm"].agg(set)
    for site in arms.index.difference(shared["site"].unique(), sort=False):
        lacking = ", ".join(sorted(set(kept["arm"]) - arms[site]))
        yield f"{site} has no predictions by {lacking}: it is left out wherever sites are taken together."


def _count(scores: DataFrame) -> Series[int]:
    return scores.groupby("site", sort=False)["case"].nunique()


def on_absence(scores: DataFrame) -> Iterator[str]:
    """Where an organ is missing in the reference, in the prediction, or in both."""
    both = scores["absent_reference"] & scores["absent_predicted"]
    for (arm, name), part in scores.groupby(["arm", "class"], sort=False):
        of = f"of {_number(len(part), 'case')}"
        missed = int((part["absent_predicted"] & ~both).sum())
        invented = int((part["absent_reference"] & ~both).sum())
        if missed:
            yield f"{arm} misses {name} in {missed} {of}: Dice and NSD are 0 there, HD95 cannot be told."
        if invented:
            yield f"{arm} shows {name} in {invented} {of} whose reference has none: Dice and NSD are 0 there."
    if both.any():
        times = f"{int(both.sum())} of {_number(len(scores), 'time')}"
        yield f"Neither reference nor prediction has the organ, {times}: left out of all means."


def on_numbers(shared: DataFrame) -> Iterator[str]:
    """How far intervals can be trusted, and what has no volume."""
    patients = shared["patient"].nunique()
    if 0 < patients < FEW_PATIENTS:
        few = _number(patients, "patient")
        yield f"{few} only: with fewer than {FEW_PATIENTS} the intervals are too narrow."
    if shared.empty:
        yield "No site has predictions by every arm: nothing is said about all sites together."
    elif shared["reference_ml"].isna().all():
        yield "The images are flat: there are no volumes, and surfaces are lines."


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
