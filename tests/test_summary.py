"""What the scores say: means, gains, worst cases, small organs, and what cannot be told."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_gml import stats
from nnunet_gml.comparison.measures import COLUMNS
from nnunet_gml.comparison.runs import Predicted
from nnunet_gml.comparison.summary import choose_baseline, summarise
from nnunet_gml.stats import bootstrap_interval, gain, rank_biserial
from peer_sync.errors import ConfigError

NAN = math.nan
SMALL_ML, BIG_ML = 0.5, 30.0


def scores(*rows: tuple) -> pd.DataFrame:
    """Rows of site (or ``TRAINED@TESTED``), arm, case, Dice of the big class, Dice of the tiny one."""
    lines = []
    for site, arm, case, *dice in rows:
        trained, _, tested = site.rpartition("@")
        for name, value, ml in zip(("big", "tiny"), dice, (BIG_ML, SMALL_ML), strict=True):
            missed, absent = value == 0, math.isnan(value)
            hd95 = NAN if missed or absent else 1.0
            where = (tested, arm, trained or tested, case, f"patient of {case}", name)
            reference = 0.0 if absent else ml
            lines.append((*where, value, value, hd95, reference, 0.0, -reference, absent, missed or absent))
    return pd.DataFrame(lines, columns=list(COLUMNS))


TWO_SITES = scores(
    ("north", "stock", "n1", 0.8, 0.4),
    ("north", "stock", "n2", 0.6, 0.2),
    ("south", "stock", "s1", 0.9, 0.5),
    ("north", "gml", "n1", 0.9, 0.7),
    ("north", "gml", "n2", 0.7, 0.5),
    ("south", "gml", "s1", 0.7, 0.5),
)


def line(frame: pd.DataFrame, **keys: str) -> pd.Series:
    """The only row with these keys."""
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    (found,) = (row for _, row in frame.iterrows())
    return found


def test_means_and_gains_are_over_cases_of_the_mean_over_classes():
    """By hand: stock (0.6 + 0.4 + 0.7) / 3 = 0.567, gml (0.8 + 0.6 + 0.6) / 3 = 0.667; gains 0.2 and -0.1."""
    found = summarise(TWO_SITES, "stock")

    stock, gml = (line(found.arms, arm=arm) for arm in ("stock", "gml"))
    assert (stock["dice"], gml["dice"]) == pytest.approx((1.7 / 3, 2 / 3))
    assert gml["gain"] == pytest.approx(0.1) and math.isnan(stock["gain"])
    gains = [line(found.sites, site=site, arm="gml")["gain"] for site in ("north", "south")]
    assert gains == pytest.approx([0.2, -0.1])
    assert (gml["worst_site"], gml["worst_class"]) == ("south", "big")
    assert (gml["worst_site_gain"], gml["worst_class_gain"]) == pytest.approx((-0.1, 0.0))
    assert (gml["patients"], gml["cases"]) == (3, 3)


def test_small_organs_stand_apart():
    """By median reference volume: 0.5 ml is below 2, 30 ml is not; below 0.1 ml is none, so no groups."""
    found = summarise(TWO_SITES, "stock")

    assert found.classes.groupby("class")["small"].all().to_dict() == {"big": False, "tiny": True}
    tiny = line(found.groups, group="small", arm="gml")
    assert tiny["dice"] == pytest.approx((0.7 + 0.5 + 0.5) / 3)
    assert tiny["gain"] == pytest.approx((0.3 + 0.3 + 0) / 3)
    assert summarise(TWO_SITES, "stock", small_ml=0.1).groups.empty


def test_p_values_are_corrected_within_each_table():
    """Eight patients, all better by two arms: exact p is 2 / 2^8 = 0.0078, twice that by Holm; effect 1."""
    rows = [
        ("north", arm, f"n{number}", 0.5 + better + number / 1000 * (better > 0), 0.5 + better)
        for arm, better in (("stock", 0.0), ("one", 0.1), ("two", 0.2))
        for number in range(8)
    ]

    found = summarise(scores(*rows), "stock")

    for arm in ("one", "two"):
        assert line(found.arms, arm=arm)["p"] == pytest.approx(2 * 2 / 2**8)
        assert line(found.arms, arm=arm)["effect"] == 1
    assert math.isnan(line(found.arms, arm="stock")["p"])
    assert line(found.classes, **{"class": "big", "arm": "one"})["p"] == pytest.approx(4 * 2 / 2**8)


def test_scans_of_one_patient_are_drawn_together():
    """Four scans of one patient and one of another: two clusters, so the interval spans both their means."""
    frame = scores(*[("north", "stock", f"n{number}", 0.2 if number else 0.8, NAN) for number in range(5)])
    frame["patient"] = ["Ann" if case == "n0" else "Bob" for case in frame["case"]]

    row = line(summarise(frame, "stock").arms, arm="stock")

    assert (row["dice_low"], row["dice_high"]) == pytest.approx((0.2, 0.8))
    assert (row["patients"], row["cases"]) == (2, 5)


def test_cases_that_an_arm_lacks_are_left_out_and_named():
    """Arms are compared on the same cases: without n2, stock has 0.6 at north."""
    lacking = TWO_SITES[(TWO_SITES["arm"] != "gml") | (TWO_SITES["case"] != "n2")]

    found = summarise(lacking, "stock")

    assert line(found.sites, site="north", arm="stock")["dice"] == pytest.approx(0.6)
    assert "north: 1 case left out, because not every arm has predicted them." in found.notes


def test_a_site_that_an_arm_lacks_is_not_in_the_arms_table():
    """It may be a hard one; its own line stays."""
    lacking = TWO_SITES[(TWO_SITES["arm"] != "gml") | (TWO_SITES["site"] != "south")]

    found = summarise(lacking, "stock")

    assert line(found.arms, arm="stock")["dice"] == pytest.approx(0.5)
    assert line(found.arms, arm="gml")["worst_site"] == "north"
    assert line(found.sites, site="south", arm="stock")["dice"] == pytest.approx(0.7)
    assert any(note.startswith("south has no predictions by gml: it is left out") for note in found.notes)


def test_arms_without_a_common_site_leave_empty_tables_and_a_note():
    """Nothing is said rather than something wrong."""
    found = summarise(scores(("north", "stock", "n1", 0.8, 0.8), ("south", "gml", "s1", 0.9, 0.9)), "stock")

    assert found.arms.empty and found.classes.empty and found.groups.empty and len(found.sites) == 2
    assert "No site has predictions by every arm: nothing is said about all sites together." in found.notes


def test_absent_organs_are_left_out_or_count_as_missed_and_are_told():
    """n1: neither has the tiny organ under stock, gml shows some where none is: 0 against rightly absent, 1.
    n2: stock misses it: 0, no HD95."""
    frame = scores(
        ("north", "stock", "n1", 0.8, NAN),
        ("north", "stock", "n2", 0.8, 0.0),
        ("north", "gml", "n1", 0.8, 0.0),
        ("north", "gml", "n2", 0.8, 0.6),
    )
    invented = (frame["arm"] == "gml") & (frame["case"] == "n1") & (frame["class"] == "tiny")
    frame.loc[invented, ["absent_reference", "absent_predicted"]] = (True, False)

    found = summarise(frame, "stock")

    assert line(found.classes, **{"class": "tiny", "arm": "stock"})["dice"] == 0
    assert line(found.classes, **{"class": "tiny", "arm": "gml"})["gain"] == pytest.approx((-1 + 0.6) / 2)
    assert line(found.arms, arm="stock")["hd95_mm"] == 1
    assert found.notes[:3] == (
        "stock misses tiny in 1 of 2 cases: Dice and NSD are 0 there, HD95 cannot be told.",
        "gml shows tiny in 1 of 2 cases whose reference has none: Dice and NSD are 0 there.",
        "Neither reference nor prediction has the organ, 1 of 8 times: left out of all means.",
    )


def test_a_class_that_no_reference_of_a_site_shows_is_not_judged_there():
    """A site that does not contour an organ: to show it is not wrong. Elsewhere it counts."""
    frame = scores(
        ("north", "stock", "n1", 0.8, NAN),
        ("north", "gml", "n1", 0.9, 0.0),
        ("south", "stock", "s1", 0.6, 0.4),
    )
    shown = (frame["site"] == "north") & (frame["class"] == "tiny")
    frame.loc[shown, "absent_reference"] = True

    found = summarise(frame, "stock")

    assert line(found.sites, site="north", arm="gml")["dice"] == pytest.approx(0.9)
    assert line(found.sites, site="south", arm="stock")["dice"] == pytest.approx(0.5)
    assert (
        found.notes[0]
        == "No reference of north shows tiny: it is not judged there, perhaps it is not contoured."
    )


def test_the_matrix_is_of_networks_by_sites():
    """The diagonal are the sites' own networks; crossed predictions count nowhere else."""
    crossed = scores(("south@north", "stock", "n1", 0.2, 0.4), ("south@north", "stock", "n2", 0.4, 0.6))

    found = summarise(pd.concat([TWO_SITES, crossed]), "stock")

    assert found.matrix is not None and set(found.matrix["arm"]) == {"stock"}
    dice = found.matrix.set_index(["trained_at", "tested_at"])["dice"]
    assert dice.to_dict() == pytest.approx(
        {("north", "north"): 0.5, ("south", "south"): 0.7, ("south", "north"): 0.4}
    )
    pd.testing.assert_frame_equal(found.arms, summarise(TWO_SITES, "stock").arms)
    assert summarise(TWO_SITES, "stock").matrix is None


def arm(name: str, is_stock: bool = False) -> Predicted:
    return Predicted("north", name, None, None, {}, is_stock=is_stock)  # type: ignore[arg-type]


def test_the_baseline_is_stock_unless_another_is_named():
    """One arm alone is its own; none, two or unknown ones are asked for."""
    stock, gml, again = arm("individual", True), arm("gml"), arm("nnUNetTrainer", True)

    assert choose_baseline([gml, stock]) == "individual"
    assert choose_baseline([gml, stock], "gml") == "gml"
    assert choose_baseline([gml]) == "gml"
    for arms, said in (
        ([gml, arm("fedavg")], "none of the arms are stock nnU-Net: gml, fedavg"),
        ([stock, again], "2 of the arms are stock nnU-Net: individual, nnUNetTrainer"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            choose_baseline(arms)
        assert "--baseline ARM" in caught.value.hint
    with pytest.raises(ConfigError, match="--baseline: there is no arm 'gmll'") as caught:
        choose_baseline([gml, stock], "gmll")
    assert caught.value.hint == "the arms are gml, individual"


@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=8))
def test_the_effect_is_that_of_counting_pairs(differences):
    """Kerby's r by its other definition: of all pairs of patients (each with itself, too) the share whose
    sum is above 0, less the share below; ties apart."""
    sums = [a + b for i, a in enumerate(differences) for b in differences[i:]]
    if 0 in sums or len({abs(d) for d in differences}) < len(differences):
        return

    found = rank_biserial({str(number): [value] for number, value in enumerate(differences)})

    assert found == pytest.approx((sum(s > 0 for s in sums) - sum(s < 0 for s in sums)) / len(sums))


def test_effects_of_no_difference():
    """Nobody differs: 0. Nobody is there: nan."""
    assert rank_biserial({"Ann": [0.0], "Bob": [0.1, -0.1]}) == 0
    assert math.isnan(rank_biserial({}))


def test_gains_where_an_organ_is_absent():
    """Both nan: no pair. One nan: rightly absent, 1, against 0."""
    assert math.isnan(gain(NAN, NAN))
    assert (gain(0.0, NAN), gain(NAN, 0.0)) == (-1, 1)


def test_drawing_in_batches_changes_no_interval(monkeypatch):
    """Memory is bounded, the numbers are the same."""
    patients = {str(number): [value] for number, value in enumerate(np.linspace(0, 1, 30) ** 2)}
    whole = bootstrap_interval(patients)

    monkeypatch.setattr(stats, "MOST_DRAWN", 3000)

    assert bootstrap_interval(patients) == whole


def test_every_column_that_is_promised_is_there():
    """The report and others read them by name."""
    found = summarise(TWO_SITES, "stock", {"big": 2.0})

    shared = {
        "arm",
        "dice",
        "nsd",
        "hd95_mm",
        "volume_error_ml",
        "gain",
        "gain_low",
        "gain_high",
        "p",
        "effect",
    }
    ends = {
        f"{name}_{end}"
        for name, end in product(("dice", "nsd", "hd95_mm", "volume_error_ml"), ("low", "high"))
    }
    worst = {"worst_site", "worst_site_gain", "worst_class", "worst_class_gain"}
    assert shared | ends | worst | {"patients", "cases"} == set(found.arms)
    assert shared | {"site", "dice_low", "dice_high"} <= set(found.sites)
    assert shared | {"class", "small", "reference_ml"} <= set(found.classes)
    assert shared | {"group"} <= set(found.groups)
    assert found.baseline == "stock" and found.tolerance_mm == {"big": 2.0}
