"""Label harmony: names are the contract. What two datasets call differently, and what to do about it.

Numbers of plain classes may differ where federation.toml lists the classes by name; regions and the
channels of the image have no other contract than their own definition, so those must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_gml.planning.plans import channel_names, class_names
from nnunet_gml.planning.spelling import likely_pairs
from peer_sync.errors import quoted


@dataclass(frozen=True)
class Difference:
    """One thing in which two datasets disagree.

    Attributes:
        kind: ``misspelt``, ``missing``, ``number``, ``region``, ``ignore`` or ``channel``.
        found: what is where, without a full stop.
        advice: whole sentences that say what to do.
        is_fatal: whether the two cannot learn from each other like this.
    """

    kind: str
    found: str
    advice: str
    is_fatal: bool = True


def compare(
    own: Mapping[str, Any],
    theirs: Mapping[str, Any],
    own_site: str,
    their_site: str,
    by_name: bool = False,
) -> list[Difference]:
    """What stands between two dataset.json, names first; empty where they fit.

    Args:
        own: our dataset.json: ``labels``, ``channel_names`` (or ``modality``), ``regions_class_order``.
        theirs: the same of another site, checked by `nnunet_gml.planning.foreign_plans.check_dataset`.
        own_site: how to name us in a sentence.
        their_site: how to name them.
        by_name: the federation lists its classes by name, so numbers and the ignore label may differ.

    Example:
        >>> one = {"labels": {"background": 0, "Parotid_L": 1}, "channel_names": {"0": "CT"}}
        >>> other = {"labels": {"background": 0, "left parotid": 1}, "channel_names": {"0": "CT"}}
        >>> [difference.kind for difference in compare(one, other, "north", "east")]
        ['misspelt']
    """
    sites = own_site, their_site
    return [
        *compare_names(class_names(own), class_names(theirs), own_site, their_site),
        *_compare_values(own["labels"], theirs["labels"], sites, by_name),
        *_compare_order(own, theirs, sites),
        *_compare_ignore(own["labels"], theirs["labels"], sites, by_name),
        *_compare_channels(_channels(own), _channels(theirs), sites),
    ]


def compare_names(
    own: Sequence[str], theirs: Sequence[str], own_site: str, their_site: str
) -> list[Difference]:
    """Class names that only one of two has: paired where one looks like the other, else missing."""
    only_own = [name for name in own if name not in theirs]
    only_theirs = [name for name in theirs if name not in own]
    pairs = likely_pairs(only_own, only_theirs)
    paired = {name for pair in pairs for name in pair}
    return [
        *(_misspelt(ours, other, own_site, their_site) for ours, other in pairs),
        *(_missing(name, own_site, their_site) for name in only_theirs if name not in paired),
        *(_missing(name, their_site, own_site) for name in only_own if name not in paired),
    ]


def _misspelt(ours: str, other: str, own_site: str, their_site: str) -> Difference:
    return Difference(
        "misspelt",
        f"{own_site} has {quoted(ours)}, {their_site} has {quoted(other)}",
        f"Are {quoted(ours)} and {quoted(other)} the same organ? Then please agree on one spelling and "
        "change it in dataset.json (raw and preprocessed) at one of the two sites. If they are different "
        "organs, both sites need both names, and each declares in labelled which it contours.",
    )


def _missing(name: str, where: str, other: str) -> Difference:
    return Difference(
        "missing",
        f"{other} has {quoted(name)}, {where} does not",
        f"Please add {quoted(name)} to the labels in dataset.json of {where} (it need not occur in any case) "
        f"and leave it out of labelled of {where} in federation.toml: its contours are then learnt from "
        f"sites that have it.",
    )


def _compare_values(
    own: Mapping[str, Any], theirs: Mapping[str, Any], sites: tuple[str, str], by_name: bool
) -> list[Difference]:
    differences = []
    for name in (name for name in own if name in theirs and name != "ignore"):
        ours, other = _numbers(own[name]), _numbers(theirs[name])
        if ours != other:
            is_region = max(len(ours), len(other)) > 1
            make = _other_region if is_region else _other_number
            differences.append(make(name, ours, other, sites, by_name))
    return differences


def _other_region(
    name: str, ours: Sequence[int], other: Sequence[int], sites: tuple[str, str], _: bool
) -> Difference:
    return Difference(
        "region",
        f"region {quoted(name)} is labels {_listed(ours)} at {sites[0]}, {_listed(other)} at {sites[1]}",
        "Regions are defined by numbers, so all sites must number the labels alike and define each region "
        "by the same ones. Please agree on one dataset.json.",
    )


def _other_number(
    name: str, ours: Sequence[int], other: Sequence[int], sites: tuple[str, str], by_name: bool
) -> Difference:
    advice = (
        "Nothing has to be done: the federation lists its classes by name."
        if by_name
        else "Either number the labels alike, or list the classes by name in federation.toml "
        "(nnunet-gml federation agree FILE --classes ...); then each site may number them as it likes."
    )
    found = f"{quoted(name)} is label {_listed(ours)} at {sites[0]}, {_listed(other)} at {sites[1]}"
    return Difference("number", found, advice, is_fatal=not by_name)


def _compare_order(
    own: Mapping[str, Any], theirs: Mapping[str, Any], sites: tuple[str, str]
) -> list[Difference]:
    ours, other = own.get("regions_class_order"), theirs.get("regions_class_order")
    if ours == other:
        return []
    found = f"regions_class_order is {_listed(ours)} at {sites[0]}, {_listed(other)} at {sites[1]}"
    advice = "Please use the same regions_class_order in dataset.json at every site."
    return [Difference("region", found, advice)]


def _compare_ignore(
    own: Mapping[str, Any], theirs: Mapping[str, Any], sites: tuple[str, str], by_name: bool
) -> list[Difference]:
    ours, other = own.get("ignore"), theirs.get("ignore")
    if ours == other:
        return []
    found = f"the ignore label is {_listed(ours)} at {sites[0]}, {_listed(other)} at {sites[1]}"
    advice = (
        "Nothing has to be done: the ignore label is each site's own where classes are listed by name."
        if by_name
        else "Please use the same ignore label at both sites, or list the classes by name in "
        "federation.toml; then each site may have one or not."
    )
    return [Difference("ignore", found, advice, is_fatal=not by_name)]


def _compare_channels(
    own: Mapping[str, str], theirs: Mapping[str, str], sites: tuple[str, str]
) -> list[Difference]:
    if own == theirs:
        return []
    ours, other = (", ".join(f"{n}: {quoted(name)}" for n, name in side.items()) for side in (own, theirs))
    return [
        Difference(
            "channel",
            f"the channels are {ours} at {sites[0]}, {other} at {sites[1]}",
            "Please give the images the same channels in the same order, with the same names: nnU-Net also "
            "chooses the normalisation by the name.",
        )
    ]


def _channels(dataset: Mapping[str, Any]) -> dict[str, str]:
    named = channel_names(dataset) or {}
    return {str(number): str(name) for number, name in sorted(named.items(), key=lambda pair: str(pair[0]))}


def _numbers(value: Any) -> tuple[int, ...]:  # noqa: ANN401 - a number, or a list of numbers
    return tuple(sorted(value)) if isinstance(value, (list, tuple)) else (value,)


def _listed(value: Any) -> str:  # noqa: ANN401 - a number, a list of numbers, or nothing
    if value is None:
        return "absent"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
