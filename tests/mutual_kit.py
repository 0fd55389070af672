"""Two small networks that learn together, and nnU-Net's step for one of them alone."""

from __future__ import annotations

import torch
from torch import nn

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.divergence import OneVsRest, one_vs_rest, questions_in
from nnunet_gml.learners import Learner, Method, Peer

DISTIL = ClassWiseDistillation(smoothing=1, minimum_voxels=1)
LABELLED = torch.ones(2, dtype=torch.bool)
TRUST, TRUST_IN_US = torch.tensor([1.0, 0.3]), torch.tensor([0.2, 0.9])


def learner(seed: int, scaled: bool = False) -> Learner:
    """A network of two layers for one input and three output channels, and nnU-Net's optimiser."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 3, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.99, nesterov=True)
    return Learner(network, optimizer, torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None)


def peer(seed: int = 1, scaled: bool = False, weight: float = 0.5, learns: bool = True) -> Peer:
    """A peer whose site contours the same classes."""
    return Peer(learner(seed, scaled), TRUST, TRUST_IN_US, LABELLED, ~LABELLED, weight, learns)


def supervise(output, target) -> torch.Tensor:
    """Cross entropy instead of nnU-Net's loss; mean over scales that count 1, 1/2, ..."""
    scales = zip(output, target, strict=True) if isinstance(output, list) else [(output, target)]
    return sum(nn.functional.cross_entropy(o, t[:, 0].long()) / 2**i for i, (o, t) in enumerate(scales))


METHOD = Method(supervise, DISTIL)


class TwoScales(nn.Module):
    """Deep supervision: full resolution, and half of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Logits at both scales."""
        full = self.network(x)
        return [full, nn.functional.avg_pool3d(full, 2)]


def two_scales(who: Learner) -> Learner:
    """The same learner with deep supervision."""
    who.network = TwoScales(who.network)
    return who


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Noise, and labels at random."""
    generator = torch.Generator().manual_seed(2)
    shape = (2, 1, 6, 6, 6)
    return [
        (torch.randn(shape, generator=generator), torch.randint(0, 3, shape, generator=generator))
        for _ in range(count)
    ]


def scales(target: torch.Tensor) -> list[torch.Tensor]:
    """The target at both scales."""
    return [target, target[..., ::2, ::2, ::2]]


def train_alone(who: Learner) -> None:
    """nnU-Net's step, in its order."""
    for data, target in batches():
        who.optimizer.zero_grad(set_to_none=True)
        loss = supervise(who.network(data), target)
        (who.scaler.scale(loss) if who.scaler else loss).backward()
        if who.scaler:
            who.scaler.unscale_(who.optimizer)
        nn.utils.clip_grad_norm_(who.network.parameters(), 12)
        if who.scaler:
            who.scaler.step(who.optimizer)
            who.scaler.update()
        else:
            who.optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    """Equal weights, bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def all_answers(logits: torch.Tensor, has_regions: bool) -> OneVsRest:
    """`one_vs_rest` for every voxel and class, each ``(N, C)``."""
    mask = torch.ones(len(logits), logits.shape[1] - (not has_regions), dtype=torch.bool)
    return OneVsRest(*(a.view(mask.shape) for a in one_vs_rest(logits, questions_in(mask), has_regions)))
