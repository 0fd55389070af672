"""Who is at which site: patients divided among simulated sites, and there into training and held out.

Only names and numbers: no files. A patient is at one site only, and there either in training or held out,
with all cases.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from peer_sync.errors import ConfigError

FOLDS = 5
"""As many as nnU-Net makes itself."""
FEWEST_PATIENTS = 3
"""At a site: one to train with, one to validate with, one held out."""
MOST_DRAWS = 10_000
KINDS = ("by-column", "dirichlet", "dirichlet-labels", "random")


@dataclass(frozen=True)
class Split:
    """How one raw dataset becomes several sites.

    Attributes:
        kind: one of `KINDS`.
        column: of the table, for ``by-column``.
        alpha: of the Dirichlet distribution: 100 divides almost evenly, 0.3 very unevenly.
        sites: how many; None for ``by-column``, whose values are the sites.
    """

    kind: str
    column: str = ""
    alpha: float = math.inf
    sites: int | None = None


def parse_split(words: str, sites: int | None) -> Split:
    """A split from ``by-column=COLUMN``, ``dirichlet=ALPHA``, ``dirichlet-labels=ALPHA`` or ``random``.

    >>> parse_split("dirichlet=0.5", 4)
    Split(kind='dirichlet', column='', alpha=0.5, sites=4)

    Raises:
        ConfigError: the text is none of these, or the number of sites is missing or of no use.
    """
    kind, _, value = words.partition("=")
    if kind not in KINDS or bool(value) == (kind == "random"):
        known = "by-column=COLUMN, dirichlet=ALPHA, dirichlet-labels=ALPHA, random"
        raise ConfigError(f"{words!r} is no split", f"write one of {known}")
    if kind == "by-column":
        if sites is not None:
            raise ConfigError("the sites are the values of the column", "leave out --sites")
        return Split(kind, column=value)
    if sites is None or sites < 2:
        raise ConfigError(f"--split {words} needs to know how many sites", "add --sites 2, or more")
    return Split(kind, alpha=_alpha(value) if value else math.inf, sites=sites)


def _alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < math.inf:
        raise ConfigError(f"the alpha of a Dirichlet distribution is {text!r}", "write a number above 0")
    return alpha


def by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """The patients of each value, both sorted; ``values`` has each patient's."""
    sites: dict[str, list[str]] = {}
    for patient, value in sorted(values.items()):
        sites.setdefault(value, []).append(patient)
    return dict(sorted(sites.items()))


def deal(groups: Mapping[str, Hashable], count: int, alpha: float, seed: int) -> list[list[str]]:
    r"""Deal each group's patients to ``count`` sites by shares of their own.

    The shares of a group are drawn from :math:`\mathrm{Dir}(\alpha, \dots, \alpha)`; for infinite
    ``alpha`` all are equal. One group for all patients makes sites of different sizes; groups by label make
    sites that see different labels. Drawn again until each site has `FEWEST_PATIENTS`. The same
    arguments always give the same sites.

    Args:
        groups: each patient's group.
        count: number of sites.
        alpha: of the distribution; the smaller, the more uneven.
        seed: of the draw.

    Raises:
        ConfigError: no draw gave every site enough patients.

    References:
        The idea: T.-M. H. Hsu, H. Qi and M. Brown (2019), arXiv:1909.06335; M. Yurochkin et al., ICML 2019.
    """
    drawn = random.Random(f"{seed}/division")  # noqa: S311 - to be repeated, not secret
    for _ in range(MOST_DRAWS):
        sites: list[list[str]] = [[] for _ in range(count)]
        for group in sorted(set(groups.values()), key=str):
            patients = sorted(name for name, own in groups.items() if own == group)
            drawn.shuffle(patients)
            cuts = _cuts(len(patients), _shares(count, alpha, drawn))
            for site, (start, end) in zip(sites, pairwise(cuts), strict=True):
                site += patients[start:end]
        if min(map(len, sites)) >= FEWEST_PATIENTS:
            return [sorted(site) for site in sites]
    raise ConfigError(
        f"{len(groups)} patients cannot be divided so that each of {count} sites has {FEWEST_PATIENTS}",
        "ask for fewer --sites, or for a larger alpha",
    )


def _shares(count: int, alpha: float, drawn: random.Random) -> list[float]:
    weights = [1.0 if math.isinf(alpha) else drawn.gammavariate(alpha, 1.0) for _ in range(count)]
    total = math.fsum(weights) or 1.0
    return [weight / total for weight in weights]


def _cuts(length: int, shares: Sequence[float]) -> list[int]:
    """Where a list of that length is cut, so that its pieces have these shares, rounded.

    >>> _cuts(7, [0.5, 0.25, 0.25])
    [0, 4, 5, 7]
    """
    ends = [round(length * math.fsum(shares[: number + 1])) for number in range(len(shares) - 1)]
    return [0, *ends, length]


def standing_out(volumes: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """For each patient the class of which it has most, compared with the mean patient.

    That is the largest ratio of the class's share in the patient's contours to its mean share over
    patients; empty for a patient without any contour.

    >>> standing_out({"Ann": {"eye": 1, "ear": 1}, "Bob": {"eye": 3, "ear": 1}})
    {'Ann': 'ear', 'Bob': 'eye'}
    """
    shares = {
        patient: {name: volume / (math.fsum(own.values()) or 1.0) for name, volume in own.items()}
        for patient, own in volumes.items()
    }
    means: dict[str, float] = {}
    for own in shares.values():
        for name, share in own.items():
            means[name] = means.get(name, 0.0) + share / len(shares)
    return {
        patient: max(own, key=lambda name: own[name] / means[name] if own[name] else 0.0)
        if any(own.values())
        else ""
        for patient, own in shares.items()
    }


def hold_out(patients: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """A site's patients to train with, and those held out: a share of them, one at least, two left over.

    Raises:
        ConfigError: there are too few patients.
    """
    if len(patients) < FEWEST_PATIENTS:
        raise ConfigError(
            f"a site has {len(patients)} patients ({', '.join(patients)}), but needs {FEWEST_PATIENTS}",
            "one to train with, one to validate with and one held out",
        )
    order = sorted(patients)
    random.Random(f"{seed}/held out/{order[0]}").shuffle(order)  # noqa: S311 - to be repeated, not secret
    held_out = min(max(1, round(share * len(order))), len(order) - 2)
    return sorted(order[held_out:]), sorted(order[:held_out])


def folds(training: Sequence[str], seed: int) -> list[tuple[list[str], list[str]]]:
    """For each of nnU-Net's folds the patients to train and to validate with.

    With fewer than `FOLDS` patients the folds repeat themselves.
    """
    order = sorted(training)
    random.Random(f"{seed}/folds").shuffle(order)  # noqa: S311 - to be repeated, not secret
    count = min(FOLDS, len(order))
    parts = [order[number::count] for number in range(count)]
    return [
        (sorted(set(order) - set(parts[number % count])), sorted(parts[number % count]))
        for number in range(FOLDS)
    ]
