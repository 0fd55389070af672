"""Sums in pieces: the same as at once, and nothing of a patch's size kept."""

import pytest
import torch

from nnunet_gml import voxels
from nnunet_gml.voxels import Places, Sums, places_in, rows, sum_over


def squares(z: torch.Tensor, _: torch.Tensor) -> Sums:
    """Per channel: the sum of squares, and the number of voxels above 0."""
    return Sums((z**2).sum(dim=0), (z > 0).sum(dim=0))


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


PLACES = Places(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 7, 19, 0, 6, 19]))


def test_rows_are_the_channels_of_a_masks_voxels():
    """By hand: 2 samples of 2 channels and 1x3 voxels; the first's first, and the second's second voxel."""
    tensor = torch.arange(12).view(2, 2, 1, 3)
    mask = torch.tensor([[[True, False, False]], [[False, True, False]]])

    assert rows(tensor, places_in(mask)).tolist() == [[0, 3], [7, 10]]


@pytest.mark.parametrize("piece", [1, 4, 100])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pieces_of_any_size_make_the_same_sum_and_gradient(monkeypatch, logits, piece, layout):
    """Value, count, and the gradient 2z at the places and 0 elsewhere; in any memory layout."""
    monkeypatch.setattr(voxels, "PIECE_VOXELS", piece)
    z = logits.to(memory_format=layout, copy=True).requires_grad_()

    sums = sum_over(z, PLACES, squares)
    (sums.values * torch.tensor([1.0, 2.0, 3.0])).sum().backward()

    chosen = rows(logits, PLACES)
    expected = torch.zeros(2, 3, 20)
    expected[PLACES.sample, :, PLACES.voxel] = 2 * chosen * torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(sums.values, (chosen**2).sum(0)) and torch.equal(sums.counts, (chosen > 0).sum(0))
    assert torch.allclose(z.grad, expected.view(2, 3, 4, 5))


def test_no_places_is_zero(logits):
    """Sums of 0 with a gradient of 0."""
    sums = sum_over(logits.requires_grad_(), places_in(torch.zeros(2, 4, 5, dtype=torch.bool)), squares)
    sums.values.sum().backward()

    assert sums.values.tolist() == [0, 0, 0] and sums.counts.tolist() == [0, 0, 0]
    assert not logits.grad.any()


def test_half_precision_is_added_up_in_float32(logits):
    """Squares of 300 do not fit into float16; the gradient has the logits' type."""
    z = torch.full((1, 1, 4), 300.0, dtype=torch.float16, requires_grad=True)

    sums = sum_over(z, places_in(torch.ones(1, 4, dtype=torch.bool)), squares)
    sums.values.sum().backward()

    assert sums.values.dtype == torch.float32 and sums.values.tolist() == [360000.0]
    assert z.grad.dtype == torch.float16 and z.grad.tolist() == [[[600.0] * 4]]


def test_nothing_is_kept_for_backward_but_what_is_there_anyway(logits):
    """Only the logits themselves and the places are saved, however many operations a summand has."""
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    logits.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sum_over(logits, PLACES, squares)

    assert {tensor.data_ptr() for tensor in kept} == {t.data_ptr() for t in (logits, *PLACES)}


def test_counts_have_no_gradient(logits):
    """They are whole numbers."""
    sums = sum_over(logits.requires_grad_(), PLACES, squares)

    assert sums.values.requires_grad and not sums.counts.requires_grad
