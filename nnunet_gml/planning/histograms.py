"""Two kinds of histogram that sites may show each other: of voxel intensities, and of cases.

Intensities are counted in bins that are the same everywhere beforehand, so that sites' counts add up.
Cases are counted in bins that have several cases each, so that none stands for itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS_PER_OCTAVE = 1024
"""Bins between a power of two and the next one: a bin is at most 2^-10 of its intensity wide."""
LEAST_EXPONENT, MOST_EXPONENT = -40, 64
"""What is smaller than 2^-40 counts as 0; nothing is larger than 2^64."""
MOST_BIN = (MOST_EXPONENT - LEAST_EXPONENT) * BINS_PER_OCTAVE
"""Bins are numbered from minus this to this; 0 is around 0."""


def bin_numbers(values: npt.ArrayLike) -> Counts:
    """The bin of each value.

    Bin 0 holds what is smaller than 2^-40; from there they are counted outwards, negative ones below 0.
    Whole numbers up to 2048 have a bin each.

    >>> bin_numbers([0.0, 1.0, 1.0005, -1.0])
    array([     0,  40961,  40961, -40961])
    """
    values = np.asarray(values, dtype=np.float64)
    fraction, exponent = np.frexp(np.abs(values))
    within = np.floor((2 * fraction - 1) * BINS_PER_OCTAVE).astype(np.int64)
    number = (exponent.astype(np.int64) - 1 - LEAST_EXPONENT) * BINS_PER_OCTAVE + within + 1
    outwards = np.where(exponent <= LEAST_EXPONENT, 0, np.minimum(number, MOST_BIN))
    return np.asarray(outwards * np.sign(values), dtype=np.int64)


def bin_edges(numbers: npt.ArrayLike) -> Floats:
    """The edge of each bin that is nearer to 0: a whole number where one has the bin for itself.

    >>> bin_edges(bin_numbers([0.0, 1.0, 1.0005, -300.0]))
    array([   0.,    1.,    1., -300.])
    """
    numbers = np.asarray(numbers, dtype=np.int64)
    octave, within = np.divmod(np.abs(numbers) - 1, BINS_PER_OCTAVE)
    edge = np.ldexp(1 + within / BINS_PER_OCTAVE, octave + LEAST_EXPONENT)
    return np.asarray(np.where(numbers == 0, 0.0, edge * np.sign(numbers)), dtype=np.float64)


def percentile(edges: Floats, counts: Counts, percent: float) -> float:
    """As `numpy.percentile` of all values, with each at its bin's edge.

    Args:
        edges: one value for each bin, ascending.
        counts: how many there are of each.
        percent: 0 to 100.

    >>> percentile(np.array([1.0, 5.0]), np.array([1, 1]), 50)
    3.0
    """
    upto = np.cumsum(counts)
    position = percent / 100 * (int(upto[-1]) - 1)
    low, high = (
        float(edges[np.searchsorted(upto, place, side="right")])
        for place in (math.floor(position), math.ceil(position))
    )
    return low + (high - low) * (position - math.floor(position))


@dataclass(frozen=True)
class Histogram:
    """Cases in bins of several; ascending.

    Attributes:
        values: mean of each bin's cases.
        counts: how many they are.
        spreads: their standard deviation, rounded down to a power of two so that it does not tell single
            cases; 0 where all have the same value.
    """

    values: Floats
    counts: Counts
    spreads: Floats

    def cases(self) -> Floats:
        """A value for each case: evenly spread, with its bin's mean and spread.

        At least half the mean and at most twice: what nnU-Net measures is positive.

        >>> Histogram(np.array([7.0]), np.array([5]), np.array([2**0.5])).cases()
        array([5., 6., 7., 8., 9.])
        """
        bins = zip(self.values, self.counts, self.spreads, strict=True)
        cases = [np.clip(mean + spread * _even(count), mean / 2, 2 * mean) for mean, count, spread in bins]
        return np.concatenate(cases)


def merged_bins(values: Sequence[float], least: int) -> Histogram:
    """Cases in bins of at least ``least`` each: neighbouring values are put together.

    From both ends inwards, so that what is common in the middle stays as it is.

    Args:
        values: one for each case.
        least: how many cases a bin has at least.

    Raises:
        ValueError: there are fewer than ``least`` values.

    >>> merged_bins([1, 2, 3, 4, 4, 4, 6, 8, 10], 3).values
    array([2., 4., 8.])
    """
    if len(values) < least:
        raise ValueError(f"expected at least {least} values, found {len(values)}")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    ends = np.cumsum(_group_lengths(counts.tolist(), least))[:-1]
    groups = list(zip(np.split(distinct, ends), np.split(counts, ends), strict=True))
    means = [_mean(*group) for group in groups]
    spreads = [_spread(*group) for group in groups]
    return Histogram(np.array(means), np.array([numbers.sum() for _, numbers in groups]), np.array(spreads))


def _even(count: int) -> Floats:
    """So many numbers at equal distances, with mean 0 and standard deviation 1."""
    places = np.arange(count) - (count - 1) / 2
    return np.asarray(places / np.sqrt((count**2 - 1) / 12), dtype=np.float64)


def _mean(values: Floats, counts: Counts) -> float:
    """Exactly the value where there is only one."""
    return float(values[0]) if len(values) == 1 else math.fsum(values * counts) / int(counts.sum())


def _spread(values: Floats, counts: Counts) -> float:
    deviation = math.sqrt(_mean((values - _mean(values, counts)) ** 2, counts))
    return 2.0 ** math.floor(math.log2(deviation)) if deviation else 0.0


def _group_lengths(counts: Sequence[int], least: int) -> list[int]:
    """How many neighbours make up each bin: packed from both ends, the median in the middle."""
    middle = int(np.searchsorted(np.cumsum(counts), sum(counts) / 2))
    below, below_rest = _packed(counts[:middle], least)
    above, above_rest = _packed(counts[:middle:-1], least)
    length = 1
    for side, rest in ((below, below_rest), (above, above_rest)):
        if side:
            side[-1] += rest
        else:
            length += rest
    start = sum(below)
    if sum(counts[start : start + length]) < least:
        length += below.pop() if below else above.pop()
    return [*below, length, *reversed(above)]


def _packed(counts: Sequence[int], least: int) -> tuple[list[int], int]:
    """Lengths of groups that just reach ``least``, from the front, and how many are left over."""
    lengths, start, total = [], 0, 0
    for end, count in enumerate(counts, 1):
        total += count
        if total >= least:
            lengths.append(end - start)
            start, total = end, 0
    return lengths, len(counts) - start
