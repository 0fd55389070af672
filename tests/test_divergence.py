"""Yes-or-no questions in log space: exact, and with a gradient, however sure a network is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutual_kit import all_answers

from nnunet_gml.divergence import (
    OneVsRest,
    Questions,
    bernoulli_divergence,
    log_probabilities,
    one_vs_rest,
    questions_in,
)

LOGITS = st.lists(st.floats(-80, 80), min_size=2, max_size=6)


def test_softmax_of_three_by_hand():
    """Odds 1 : 2 : 5 of background and two classes: p = 2/8 and 5/8, 1 - p = 6/8 and 3/8."""
    found = all_answers(torch.tensor([[1.0, 2.0, 5.0]]).log(), has_regions=False)

    assert found.log_is.exp().tolist()[0] == pytest.approx([2 / 8, 5 / 8])
    assert found.log_is_not.exp().tolist()[0] == pytest.approx([6 / 8, 3 / 8])


def test_regions_are_sigmoids():
    """Every channel is a class: odds 3 give 3/4 and 1/4."""
    found = all_answers(torch.tensor([[3.0, 1.0]]).log(), has_regions=True)

    assert found.log_is.exp().tolist()[0] == pytest.approx([3 / 4, 1 / 2])
    assert found.log_is_not.exp().tolist()[0] == pytest.approx([1 / 4, 1 / 2])


@pytest.mark.parametrize("has_regions", [False, True])
def test_only_what_is_asked_is_answered(has_regions):
    """A few questions, one of them twice: the same numbers as among all; none asked, none answered."""
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    whole = all_answers(z, has_regions)
    asked = Questions(torch.tensor([3, 0, 3, 3]), torch.tensor([1, 2, 0, 1]))

    some = one_vs_rest(z, asked, has_regions)
    none = one_vs_rest(z, questions_in(torch.zeros_like(whole.log_is).bool()), has_regions)

    for answer, all_, nothing in zip(some, whole, none, strict=True):
        assert torch.equal(answer, all_[asked]) and nothing.shape == (0,)


@pytest.mark.parametrize("has_regions", [False, True])
def test_log_probabilities_of_all_classes(has_regions):
    """The same numbers, for those who want no opposites."""
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))

    assert torch.allclose(log_probabilities(z, has_regions), all_answers(z, has_regions).log_is, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(LOGITS)
def test_opposites_are_the_logsumexp_of_the_others(values):
    """METHOD's definition, in float64 and class by class, also where p rounds to 0 or 1."""
    z = torch.tensor([values], dtype=torch.float64)

    found = all_answers(z, has_regions=False)

    for c in range(1, len(values)):
        others = torch.cat([z[:, :c], z[:, c + 1 :]], dim=1)
        expected = others.logsumexp(1) - z.logsumexp(1)
        assert found.log_is_not[0, c - 1].item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(LOGITS, st.booleans())
def test_gradients_are_finite_however_sure_the_network_is(values, has_regions):
    """Both answers, in float32, also where two logits are equal."""
    z = torch.tensor([values]).requires_grad_()

    sum(answer.sum() for answer in all_answers(z, has_regions)).backward()

    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_gradient_is_the_finite_difference(has_regions, scale):
    """Autograd in float64 agrees with finite differences; also for networks that are sure."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (scale * torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(2))

    assert torch.autograd.gradcheck(
        lambda z: bernoulli_divergence(all_answers(z, has_regions), all_answers(teacher, has_regions)),
        student.requires_grad_(),
    )


def test_divergence_by_hand_and_its_direction():
    """Student 1/2, teacher 3/4: 3/4 ln 3/2 + 1/4 ln 1/2 = 0.1308.

    The other way round: 1/2 ln 2/3 + 1/2 ln 2 = 0.1438.
    """
    half, three = (OneVsRest(torch.tensor(p).log(), torch.tensor(1 - p).log()) for p in (0.5, 0.75))

    assert float(bernoulli_divergence(student=half, teacher=three)) == pytest.approx(0.1308, abs=5e-5)
    assert float(bernoulli_divergence(student=three, teacher=half)) == pytest.approx(0.1438, abs=5e-5)
