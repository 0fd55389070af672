"""The contrastive term: where the peer is wrong, the student is pushed to the label's side, always."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutual_kit import all_answers

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.divergence import bernoulli_divergence, label_consistent_contrast

CONTRAST = ClassWiseDistillation(smoothing=0, minimum_voxels=1, contrast_weight=1.0)
LOGIT = st.floats(-15, 15)


def logits_of(*probabilities: float) -> torch.Tensor:
    """One voxel, (1, K, 1, 1, 1)."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1, 1)


def label(number: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1, 1), number)


def pull(ours, peer, target, trust=1.0, loss=CONTRAST):
    classes = ours.shape[1] - 1
    return loss(ours, peer, target, torch.full((classes,), trust), torch.ones(classes, dtype=torch.bool))


def test_a_class_that_the_peer_makes_up():
    """By hand: y = 0 and q = 3/4, so -q ln(1 - p) with p = 1/2 is 3/4 ln 2 = 0.5199 nats."""
    found = pull(logits_of(0.5, 0.5), logits_of(0.25, 0.75), label(0))

    assert float(found.loss) == pytest.approx(0.75 * math.log(2), abs=1e-6)
    assert found.voxels.tolist() == [0]


def test_a_class_that_the_peer_misses():
    """By hand: y = 1 and q = 1/4, so -(1 - q) ln p with p = 1/8 is 3/4 ln 8 = 1.5596 nats."""
    found = pull(logits_of(7 / 8, 1 / 8), logits_of(0.75, 0.25), label(1))

    assert float(found.loss) == pytest.approx(0.75 * math.log(8), abs=1e-6)


def test_weight_temperature_and_smoothing():
    """By hand: T = 2 turns odds of 9 into 3: 0.5 * 4 * 3/4 ln 2 / (1 + s) with s = 2 is 0.3466."""
    loss = ClassWiseDistillation(temperature=2.0, smoothing=2, minimum_voxels=1, contrast_weight=0.5)

    found = pull(logits_of(0.5, 0.5), logits_of(0.1, 0.9), label(0), loss=loss)

    assert float(found.loss) == pytest.approx(0.5 * 4 * 0.75 * math.log(2) / 3, abs=1e-6)


def test_trust_has_no_say():
    """The label speaks, not the peer: with trust 0 it is the same."""
    arguments = (logits_of(0.5, 0.5), logits_of(0.25, 0.75), label(0))

    assert torch.equal(pull(*arguments, trust=0.0).loss, pull(*arguments, trust=1.0).loss)


def test_its_classes_are_counted_apart_from_the_divergences():
    """By hand: class 1 agrees (one voxel), class 2 is made up (another): no sum is halved.

    Voxel 1: y = 1, q_1 = 3/4, p_1 = 1/2, k = 0.1308. Voxel 2: y = 0, q_2 = 3/4, p_2 = 1/2: 3/4 ln 2.
    Classes that neither network gives 1e-9 add less than 1e-7.
    """
    ours = torch.cat([logits_of(0.5, 0.5, 1e-9), logits_of(0.5, 1e-9, 0.5)], dim=-1)
    peer = torch.cat([logits_of(0.25, 0.75, 1e-9), logits_of(0.25, 1e-9, 0.75)], dim=-1)
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 1, 2)

    assert float(pull(ours, peer, target).loss) == pytest.approx(0.130812 + 0.75 * math.log(2), abs=1e-5)


def test_few_mistakes_say_nothing():
    """Fewer voxels than n_min: no contrast."""
    loss = ClassWiseDistillation(contrast_weight=1.0)

    assert float(pull(logits_of(0.5, 0.5), logits_of(0.25, 0.75), label(0), loss=loss).loss) == 0.0


def test_unlabelled_classes_have_no_contrast():
    """Without contours at both sites there is no label to be consistent with."""
    missing = torch.ones(1, dtype=torch.bool)

    found = CONTRAST(logits_of(0.5, 0.5), logits_of(0.25, 0.75), label(0), torch.ones(1), ~missing, missing)

    assert float(found.loss) == 0.0


@settings(max_examples=200, deadline=None)
@given(
    ours=st.lists(LOGIT, min_size=3, max_size=3),
    peer=st.lists(LOGIT, min_size=3, max_size=3),
    y=st.booleans(),
)
def test_it_always_pushes_to_the_labels_side(ours, peer, y):
    """A step down the gradient never makes class 1 less likely where it is labelled, nor more elsewhere."""
    z, t = torch.tensor([ours], dtype=torch.float64).requires_grad_(), torch.tensor([peer]).double()
    student, teacher = all_answers(z, has_regions=False), all_answers(t, has_regions=False)

    label_consistent_contrast(student, teacher, torch.tensor([[y, y]]))[0, 0].backward()

    push = -float(z.grad[0, 1])
    assert push >= 0 if y else push <= 0


def test_plain_repulsion_would_push_the_wrong_way():
    """The trap: peer q = 0.3 misses class 1, we are worse, p = 0.1. Minus the divergence lowers p further.

    By hand, for the logit z of two channels: d(-k)/dz = q - p = 0.2, so a step down lowers z; the contrast
    has -(1 - q)(1 - p) = -0.63, so a step down raises it.
    """
    z = torch.tensor([[0.9, 0.1]]).log().requires_grad_()
    teacher = all_answers(torch.tensor([[0.7, 0.3]]).log(), has_regions=False)
    repulsion = -bernoulli_divergence(all_answers(z, has_regions=False), teacher)
    contrast = label_consistent_contrast(all_answers(z, has_regions=False), teacher, torch.tensor([[True]]))

    slopes = [
        float(torch.autograd.grad(term.sum(), z, retain_graph=True)[0][0, 1])
        for term in (repulsion, contrast)
    ]

    assert slopes == pytest.approx([0.2, -0.63], abs=1e-6)


def test_the_loss_as_a_whole_moves_towards_the_label():
    """Through the gathering and the pieces: class 1 is labelled and missed by the peer; its logit rises."""
    ours = logits_of(0.9, 0.1).requires_grad_()

    pull(ours, logits_of(0.7, 0.3), label(1)).loss.backward()

    assert float(ours.grad[0, 1]) == pytest.approx(-0.63, abs=1e-5)
