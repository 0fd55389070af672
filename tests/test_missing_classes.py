"""A class that this site never contours, learnt from a network that knows it: what sixty steps give."""

from __future__ import annotations

import pytest
import torch
from nnunet_kit import seed_everything
from torch import Tensor, nn
from torch.nn import functional

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.learners import Learner, Method, Peer
from nnunet_gml.mutual import train_with_peer
from nnunet_gml.partial_labels import MarginalBackground

CONTOURED, MISSING = torch.tensor([True, False]), torch.tensor([False, True])
FEATURES = 8
BRIGHT, DARK = 10 * torch.eye(FEATURES)[:2]


def image_and_target(has_regions: bool) -> tuple[Tensor, Tensor]:
    """Slabs of grey values 1, -1 and 0, and what this site contours.

    Labels: bright is class 1; dark is class 2, which is called background here. Regions: bright and dark are
    the whole; dark is the core in it, which nobody contours here.
    """
    image = torch.zeros(1, 1, 6, 6, 6)
    image[:, :, 0:2], image[:, :, 2:4] = 1.0, -1.0
    if has_regions:
        return image, torch.cat([(image != 0).float(), torch.zeros_like(image)], dim=1)
    return image, (image > 0).float()


def network(has_regions: bool) -> nn.Sequential:
    """Two layers that look at one voxel at a time, with the same weights at every call."""
    seed_everything(3)
    channels = 2 if has_regions else 3
    return nn.Sequential(nn.Conv3d(1, FEATURES, 1), nn.LeakyReLU(), nn.Conv3d(FEATURES, channels, 1))


def teacher(has_regions: bool) -> nn.Sequential:
    """Right everywhere, by hand: a logit of 5 for a class and of -5 against it, background 0."""
    knowing = network(has_regions)
    rows = [BRIGHT + DARK, DARK] if has_regions else [0 * BRIGHT, BRIGHT, DARK]
    biases = [-5.0, -5.0] if has_regions else [0.0, -5.0, -5.0]
    with torch.no_grad():
        knowing[0].weight.copy_((BRIGHT - DARK).view(-1, 1, 1, 1, 1) / 10)
        knowing[0].bias.zero_()
        knowing[2].weight.copy_(torch.stack(rows)[..., None, None, None])
        knowing[2].bias.copy_(torch.tensor(biases))
    return knowing


def entropy_of_labels(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target[:, 0].long())


def method(has_regions: bool) -> Method:
    """Cross-entropy, in which class 2 may hide in the background, and the pull."""
    entropy = functional.binary_cross_entropy_with_logits if has_regions else entropy_of_labels
    supervise = MarginalBackground(entropy, CONTOURED, has_regions, None)
    return Method(supervise, ClassWiseDistillation(has_regions))


def learner(each: nn.Module) -> Learner:
    return Learner(each, torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9))


def taught(has_regions: bool, learns: bool, missing: Tensor) -> nn.Module:
    """The student after sixty steps with the teacher; λ is 1/2, trust in class 2 is 1/2."""
    student, trust = network(has_regions), torch.tensor([1.0, 0.5])
    peer = Peer(learner(teacher(has_regions)), trust, trust, CONTOURED, missing, 0.5, learns)
    ours, how = learner(student), method(has_regions)
    for _ in range(60):
        train_with_peer(*image_and_target(has_regions), ours, peer, how)
    return student


def class_2(who: nn.Module, has_regions: bool) -> Tensor:
    """Its probability at each voxel."""
    with torch.no_grad():
        logits = who(image_and_target(has_regions)[0])
    return (logits.sigmoid() if has_regions else logits.softmax(dim=1))[:, -1:]


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("has_regions", [False, True])
def test_a_class_that_is_not_contoured_here_is_learnt_where_the_peer_is_sure(has_regions, learns):
    """There its probability rises from below 0.3 to above 0.9, inside a contoured region, too.

    Elsewhere the peer's no pulls it down to 1/2, below which we do not say it and nothing is asked.
    """
    sure = class_2(teacher(has_regions), has_regions) > 0.8
    before = class_2(network(has_regions), has_regions)

    after = class_2(taught(has_regions, learns, MISSING), has_regions)

    assert torch.equal(sure, image_and_target(has_regions)[0] < 0)
    assert before[sure].max() < 0.3 and after[sure].min() > 0.9
    assert after[~sure].max() < 0.6


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("has_regions", [False, True])
def test_a_class_that_the_peers_site_does_not_contour_either_is_not_learnt(has_regions, learns):
    """The same steps with the same network, which is not asked: with these weights nothing comes up."""
    sure = class_2(teacher(has_regions), has_regions) > 0.8

    after = class_2(taught(has_regions, learns, ~CONTOURED & ~MISSING), has_regions)

    assert after[sure].max() < 0.3
