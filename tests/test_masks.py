"""Masks of a few voxels, filled in by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.masks import Says, class_masks, contrast_masks, foreground_places, missing_masks, said
from nnunet_gml.voxels import places_in


def says(reference: str, ours: str, peers: str) -> Says:
    """Voxels of one class as words of 0 and 1."""
    return Says(*(torch.tensor([[c == "1"] for c in word]) for word in (reference, ours, peers)))


def word(mask: torch.Tensor) -> str:
    return "".join("1" if value else "0" for value in mask[:, 0])


@pytest.mark.parametrize(
    ("mask", "expected"), [("gt", "11110000"), ("union", "11111110"), ("agree", "11000010")]
)
def test_masks_of_all_eight_cases(mask, expected):
    """Reference, ours, peer in all combinations; the last voxel is nobody's."""
    table = says("11110000", "10101010", "11001100")

    assert word(class_masks(table, mask)) == expected


def test_contrast_is_the_union_without_agree():
    """The seven voxels of the union are either where the peer is right, or where it is wrong."""
    table = says("11110000", "10101010", "11001100")

    agree, contrast = class_masks(table, "agree"), contrast_masks(table)

    assert word(contrast) == "00111100"
    assert torch.equal(agree | contrast, class_masks(table, "union")) and not (agree & contrast).any()


def test_missing_needs_an_empty_reference_and_a_peer_that_is_sure():
    """Columns: sure and empty; sure, but another class is labelled; 0.8 is not above 0.8; not the peer's."""
    reference = torch.tensor([[False, False], [True, False], [False, False], [False, False]])
    peers = torch.tensor([[False, True], [False, True], [False, True], [False, False]])
    log_peers = torch.tensor([[0.0, 0.9], [0.0, 0.9], [0.0, 0.7999], [0.0, 0.9]]).log()

    mask = missing_masks(Says(reference, peers, peers), log_peers, has_regions=False)

    assert mask[:, 1].tolist() == [True, False, False, False]
    assert not mask[:, 0].any()


def test_a_missing_class_is_taken_back_where_a_sure_peer_says_no():
    """We say it, the peer does not: at 0.1 it is sure, at 0.3 it is not; labelled otherwise; not ours."""
    reference = torch.tensor([[False, False], [False, False], [True, False], [False, False]])
    ours = torch.tensor([[False, True], [False, True], [False, True], [False, False]])
    log_peers = torch.tensor([[0.0, 0.1], [0.0, 0.3], [0.0, 0.1], [0.0, 0.1]]).log()

    mask = missing_masks(Says(reference, ours, torch.zeros_like(ours)), log_peers, has_regions=False)

    assert mask[:, 1].tolist() == [True, False, False, False]


def test_a_missing_region_needs_a_peer_that_is_sure_and_no_empty_reference():
    """Voxels in which the first region is contoured; the second: yes at 0.9 and 0.7999, no at 0.1 and 0.3."""
    reference = torch.tensor([[True, False]]).expand(4, 2)
    ours = torch.tensor([[True, False], [True, False], [True, True], [True, True]])
    peers = torch.tensor([[True, True], [True, True], [True, False], [True, False]])
    log_peers = torch.tensor([[0.5, 0.9], [0.5, 0.7999], [0.5, 0.1], [0.5, 0.3]]).log()

    masks = [missing_masks(Says(reference, ours, peers), log_peers, regions) for regions in (True, False)]

    assert masks[0][:, 1].tolist() == [True, False, True, False]
    assert not masks[1].any() and not masks[0][:, 0].any()


@pytest.mark.parametrize("mask", ["gt", "union", "agree"])
def test_a_missing_region_is_learnt_inside_a_contoured_one(mask):
    """A whole of 18 voxels is contoured, the core in it is not; the peer sees it in 9, and in 9 says no.

    By hand: p = 1/2 (a logit just above 0, so that we say it), q = 0.9 or 0.1, trust 1/2; each voxel costs
    k = 0.9 ln 1.8 + 0.1 ln 0.2 = 0.3681, half of it 0.1840. Outside the whole the peer says no, too, and
    we do not say yes. Both are as sure of the whole, so that it costs nothing.
    """
    sure, whole = math.log(9), torch.tensor([1.0, 1.0, -1.0])
    ours = torch.stack([9 * whole, 1e-6 * whole]).view(1, 2, 3, 1, 1).expand(1, 2, 3, 3, 3)
    peer = torch.stack([9 * whole, torch.tensor([sure, -sure, -sure])]).view(1, 2, 3, 1, 1).expand(ours.shape)
    target = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).view(1, 2, 3, 1, 1).expand(ours.shape)
    loss = ClassWiseDistillation(has_regions=True, mask=mask, smoothing=0)
    labelled = torch.tensor([True, False])

    pull = loss(ours, peer, target, torch.tensor([1.0, 0.5]), labelled, ~labelled)

    k = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert pull.voxels.tolist() == [18, 18]
    assert float(pull.loss) == pytest.approx(k / 2, abs=1e-5)


def one_class_missing(q: float, target: float, mask="gt", **settings):
    """Softmax of background, class 1 (both sites) and class 2 (the peer's alone), nine voxels alike."""
    ours = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1, 1).expand(1, 3, 3, 3, 1)
    peer = torch.tensor([1 - q - 0.01, 0.01, q]).log().view(1, 3, 1, 1, 1).expand(1, 3, 3, 3, 1)
    labelled, missing = torch.tensor([True, False]), torch.tensor([False, True])
    loss = ClassWiseDistillation(mask=mask, smoothing=0, **settings)
    return loss(ours, peer, torch.full((1, 1, 3, 3, 1), target), torch.tensor([1.0, 0.5]), labelled, missing)


@pytest.mark.parametrize("mask", ["gt", "union", "agree"])
def test_a_missing_class_is_learnt_whatever_the_mask(mask):
    """By hand: p = 1/4, q = 0.9, trust 1/2: k = 0.9 ln 3.6 + 0.1 ln(0.1/0.75) = 0.9513, half of it 0.4757.

    Class 1 is in no mask of ``gt`` and has 0 voxels in the others, too, where nobody says it.
    """
    pull = one_class_missing(0.9, target=0.0, mask=mask)

    k = 0.9 * math.log(0.9 / 0.25) + 0.1 * math.log(0.1 / 0.75)
    assert pull.voxels.tolist() == [0, 9]
    assert float(pull.loss) == pytest.approx(k / 2, abs=1e-5)


@pytest.mark.parametrize(("q", "target"), [(0.79, 0.0), (0.9, 1.0)])
def test_a_missing_class_is_not_learnt_where_unsure_or_labelled_otherwise(q, target):
    """The peer at 0.79; and the voxels of an organ that this site contours."""
    pull = one_class_missing(q, target)

    assert pull.voxels.tolist()[1] == 0


def test_how_sure_is_asked_of_the_network_not_of_the_temperature():
    """T = 4 would soften 0.9 to below 0.8; the mask is the same."""
    assert one_class_missing(0.9, 0.0, temperature=4.0).voxels.tolist() == [0, 9]


def test_softmax_says_the_largest_channel():
    """Logits of two voxels, and their labels 2 and 0."""
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    target = torch.tensor([2.0, 0.0]).view(1, 1, 2)
    places = places_in(torch.ones(1, 2, dtype=torch.bool))

    found = said(logits, logits.flip(1), target, places, has_regions=False)

    assert found.reference.tolist() == [[False, True], [False, False]]
    assert found.ours.tolist() == [[False, True], [False, False]]
    assert found.peers.tolist() == [[False, False], [False, True]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), has_regions=st.booleans(), ignore=st.booleans())
def test_places_are_all_voxels_that_anybody_calls_foreground(seed, has_regions, ignore):
    """Sample after sample, nothing under the ignore label, nothing twice."""
    generator = torch.Generator().manual_seed(seed)
    logits, peer = (torch.randn((2, 3, 4, 2), generator=generator) for _ in range(2))
    if has_regions:
        target = (torch.rand((2, 3 + ignore, 4, 2), generator=generator) > 0.8).float()
        ours, theirs, label = logits > 0, peer > 0, target[:, :3] > 0
        ignored = target[:, 3] > 0 if ignore else torch.zeros(2, 4, 2, dtype=torch.bool)
    else:
        target = torch.randint(0, 3 + ignore, (2, 1, 4, 2), generator=generator)
        ours, theirs, label = logits.argmax(1, True) > 0, peer.argmax(1, True) > 0, target > 0
        ignored = (target == 3)[:, 0]
    expected = (ours.any(1) | theirs.any(1) | label.any(1)) & ~ignored

    places = foreground_places(logits, peer, target, has_regions, 3 if ignore else None)

    assert torch.equal(torch.stack(places, dim=1), expected.flatten(1).nonzero())


def test_a_missing_class_is_not_diluted_by_the_others():
    """Its pull is the same, whether or not a class that both sites contour is compared beside it.

    By hand: without class 1 (nowhere in the reference) the loss is that of class 2 alone; with class 1 as
    the reference of nine more voxels both means are added, neither is halved.
    """
    loss = ClassWiseDistillation(mask="gt", smoothing=0)
    ours = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1, 1).expand(1, 3, 3, 3, 2)
    peer = torch.tensor([0.09, 0.01, 0.9]).log().view(1, 3, 1, 1, 1).expand(1, 3, 3, 3, 2)
    target = torch.zeros(1, 1, 3, 3, 2)
    target[..., 1] = 1
    both, missing = torch.tensor([True, False]), torch.tensor([False, True])

    def pull(labelled, absent):
        return float(loss(ours, peer, target, torch.ones(2), labelled, absent).loss)

    assert pull(both, missing) == pytest.approx(
        pull(both, ~both & ~missing) + pull(~both & ~missing, missing)
    )
    assert pull(~both & ~missing, missing) > 0.5
