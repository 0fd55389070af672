"""Paired tests over patients, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from nnunet_gml.stats import bootstrap_interval, holm, mean_difference, signed_rank_p


def test_signed_rank_by_hand():
    """Five patients, all better: of the 2^5 = 32 signs of the ranks only all plus and all minus: p = 2/32."""
    gains = {f"p{n}": [0.01 * n] for n in range(1, 6)}

    assert signed_rank_p(gains) == pytest.approx(2 / 32)


def test_signed_rank_with_one_loss_by_hand():
    """Ranks 1 to 4, the smallest is a loss: minus sum 1. Of 16, 0 and 1 occur once each: p = 2 * 2/16."""
    gains = {"a": [-0.01], "b": [0.02], "c": [0.03], "d": [0.04]}

    assert signed_rank_p(gains) == pytest.approx(4 / 16)


def test_scans_of_one_patient_count_once():
    """Six scans of three patients are three differences: all plus, p = 2 / 2^3, not 2 / 2^6."""
    gains = {"a": [0.1, 0.11], "b": [0.2, 0.21], "c": [0.3, 0.31]}

    assert signed_rank_p(gains) == pytest.approx(0.25)


def test_nobody_differs():
    """Equal arms: p is 1, and no warning; no patient at all: nan."""
    assert signed_rank_p({"a": [0.0], "b": [0.0]}) == 1.0
    assert math.isnan(signed_rank_p({}))


def test_mean_difference_by_hand():
    """(0.1 + 0.3 + 0.8) / 3 = 0.4 over cases, not over patients."""
    assert mean_difference({"a": [0.1, 0.3], "b": [0.8]}) == pytest.approx(0.4)
    assert math.isnan(mean_difference({}))


def test_bootstrap_of_two_patients_by_hand():
    """Two patients, 0 and 1: draws give 0 (1/4), 1/2 (1/2), 1 (1/4): the 2.5 % and 97.5 % points are 0, 1."""
    assert bootstrap_interval({"a": [0.0], "b": [1.0]}) == (0.0, 1.0)


def test_bootstrap_draws_whole_patients():
    """a has three cases of 0, b one of 1: the draw (a, b) is 1/4; a middle of 45 % lies all at that value."""
    interval = bootstrap_interval({"a": [0.0, 0.0, 0.0], "b": [1.0]}, level=0.45)

    assert interval == (0.25, 0.25)


def test_bootstrap_is_about_the_textbook_interval():
    """100 patients, one case each: mean +- 1.96 standard errors, to a tenth of its width; twice the same."""
    values = np.random.default_rng(1).normal(0.1, 0.05, 100)
    gains = {str(n): [float(value)] for n, value in enumerate(values)}
    margin = 1.96 * values.std(ddof=1) / 10

    interval = bootstrap_interval(gains)

    assert interval == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.2 * margin)
    assert interval == bootstrap_interval(gains)


def test_one_patient_has_no_interval():
    """One patient says nothing about others."""
    assert all(math.isnan(bound) for bound in bootstrap_interval({"a": [0.1, 0.2]}))


def test_holm_by_hand():
    """Sorted 0.01, 0.03, 0.04: 3 * 0.01 = 0.03; 2 * 0.03 = 0.06; 1 * 0.04 = 0.04, raised to 0.06."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_holm_leaves_out_what_was_not_tested():
    """With nan two tests remain: 2 * 0.4 = 0.8; 1 * 0.9, which is larger. Nothing exceeds 1."""
    corrected = holm([0.9, math.nan, 0.4])

    assert corrected[0] == pytest.approx(0.9)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.8)
    assert holm([0.7, 0.8]) == [1.0, 1.0]
