"""Trust per class from Dice on the gate's patches."""

import numpy as np
import pytest
import torch

from nnunet_gml.trust import Scores, TrustMemory, trust_per_class


def scores(*dice: float) -> Scores:
    values = torch.tensor(dice, dtype=torch.float64)
    return Scores(values, values.isfinite())


YES = torch.ones(3, dtype=torch.bool)


def test_trust_falls_linearly_with_the_lead_of_the_student():
    """By hand: lead 0 gives 1; lead 0.05 gives 1 - 0.05/0.2 = 0.75; lead 0.3 gives 0."""
    trust = trust_per_class(scores(0.7, 0.65, 0.5), scores(0.7, 0.7, 0.8), labelled=YES)

    assert trust.tolist() == pytest.approx([1.0, 0.75, 0.0])


def test_a_class_not_learnt_yet_is_not_trusted():
    """Below a Dice of 0.1 the peer is not believed, even where we are as bad."""
    trust = trust_per_class(scores(0.09, 0.11, 0.0), scores(0.05, 0.05, 0.0), labelled=YES)

    assert trust.tolist() == [0.0, 1.0, 0.0]


def test_a_class_the_peer_does_not_contour_is_not_trusted():
    """Its good Dice there would be an accident."""
    labelled = torch.tensor([True, False, True])

    assert trust_per_class(scores(0.9, 0.9, 0.9), scores(0.5, 0.5, 0.5), labelled).tolist() == [1.0, 0.0, 1.0]


def test_without_our_own_voxels_the_declared_dice_counts_at_most_half():
    """Nothing to check the peer's word against: min(declared, 0.5), 0 below 0.1 or without a word."""
    nothing = scores(np.nan, np.nan, np.nan)
    declared = torch.tensor([0.9, 0.3, torch.nan])

    trust = trust_per_class(nothing, nothing, YES, declared)

    assert trust.tolist() == pytest.approx([0.5, 0.3, 0.0])
    assert trust_per_class(nothing, nothing, YES).tolist() == [0.0, 0.0, 0.0]


def test_scores_sum_over_patches_before_dividing():
    """By hand: tp 3+1, fp 1+0, fn 0+1 give 8/(8+1+1) = 0.8; a class without voxels is not present."""
    outputs = [
        {"tp_hard": np.array([3, 0]), "fp_hard": np.array([1, 2]), "fn_hard": np.array([0, 0])},
        {"tp_hard": np.array([1, 0]), "fp_hard": np.array([0, 0]), "fn_hard": np.array([1, 0])},
    ]

    found = Scores.from_outputs(outputs)

    assert float(found.dice[0]) == pytest.approx(0.8)
    assert found.is_present.tolist() == [True, False]
    assert found.mean == pytest.approx(0.8)


def test_smoothing_is_an_exponential_mean_over_meetings():
    """By hand, with 1/2: 1.0 as it is; then (1 + 0.4)/2 = 0.7; then (0.7 + 0.9)/2 = 0.8."""
    memory = TrustMemory(smoothing=0.5)

    found = [float(memory.smoothed("north", torch.tensor([trust]))) for trust in (1.0, 0.4, 0.9)]

    assert found == pytest.approx([1.0, 0.7, 0.8])


def test_a_class_that_is_not_trusted_today_is_not_trusted():
    """0 at once; and what was 0, because it was not learnt yet, holds nothing back: 0.8 is 0.8."""
    memory = TrustMemory(smoothing=0.5)
    memory.smoothed("north", torch.tensor([1.0, 0.6]))

    assert memory.smoothed("north", torch.tensor([0.0, 0.6])).tolist() == pytest.approx([0.0, 0.6])
    assert memory.smoothed("north", torch.tensor([0.8, 0.6])).tolist() == pytest.approx([0.8, 0.6])


def test_every_peer_has_its_own_past():
    """A bad meeting with south does not stain north."""
    memory = TrustMemory()
    memory.smoothed("south", torch.tensor([0.1]))

    assert memory.smoothed("north", torch.tensor([0.9])).tolist() == pytest.approx([0.9])


def test_without_smoothing_only_today_counts():
    """Smoothing 0 is trust as it was before there was a memory."""
    memory = TrustMemory(smoothing=0.0)
    memory.smoothed("north", torch.tensor([1.0]))

    assert memory.smoothed("north", torch.tensor([0.3])).tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_that_never_learns_or_overshoots_is_refused(smoothing):
    """At least 0 and below 1."""
    with pytest.raises(ValueError, match=f"smoothing is {smoothing}, but must be at least 0 and below 1"):
        TrustMemory(smoothing)


def test_a_restored_memory_goes_on_as_if_nothing_had_happened():
    """Also through a checkpoint that holds tensors only; and a state taken earlier does not change."""
    memory, restored = TrustMemory(), TrustMemory()
    memory.smoothed("north", torch.tensor([1.0, 0.2]))
    state = memory.state()
    restored.restore(state)
    today = torch.tensor([0.5, 0.4])

    assert torch.equal(restored.smoothed("north", today), memory.smoothed("north", today))
    assert state["north"].tolist() == pytest.approx([1.0, 0.2])


def test_what_a_caller_does_with_the_result_does_not_reach_the_memory():
    """The tensors handed out and in are not the memory's own."""
    memory, trust = TrustMemory(), torch.tensor([1.0])
    memory.smoothed("north", trust).fill_(0.0)
    trust.fill_(0.2)

    assert memory.state()["north"].tolist() == [1.0]
