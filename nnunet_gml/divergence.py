"""Yes-or-no questions about every class, in log space, and how far two networks' answers are apart."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class OneVsRest(NamedTuple):
    """Log-probabilities of every foreground class against all the rest, each ``(N, C)``."""

    log_is: Tensor
    log_is_not: Tensor


def one_vs_rest(logits: Tensor, has_regions: bool) -> OneVsRest:
    r"""Log-probability of each foreground class, and of its opposite, at every voxel.

    .. math:: \log p_c = z_c - \mathrm{lse}(z), \quad
              \log(1 - p_c) = \mathrm{lse}_{k \ne c}(z) - \mathrm{lse}(z)

    for softmax, and :math:`\log\sigma(z_c)`, :math:`\log\sigma(-z_c)` for nnU-Net's regions. Both stay
    finite, and keep their gradient, where a probability rounds to 0 or 1.

    Args:
        logits: ``(N, K)``, one row per voxel. Softmax: channel 0 is the background, so C = K - 1;
            regions: every channel is a class, so C = K.
        has_regions: the channels are nnU-Net regions (sigmoid) rather than labels (softmax).

    Returns:
        Two tensors ``(N, C)``, in nats.

    Example:
        >>> one_vs_rest(torch.zeros(1, 4), has_regions=False).log_is_not.exp()
        tensor([[0.7500, 0.7500, 0.7500]])
    """
    if has_regions:
        return OneVsRest(functional.logsigmoid(logits), functional.logsigmoid(-logits))
    everything = logits.logsumexp(dim=1, keepdim=True)
    log_p = logits - everything
    # 1 - p cancels only where p is above 1/2, which is one class at most: the largest.
    largest = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(dim=1, keepdim=True), True)
    others = logits.masked_fill(largest, -torch.inf).logsumexp(dim=1, keepdim=True) - everything
    log_not_p = torch.where(largest, others, (-log_p.masked_fill(largest, -torch.inf).exp()).log1p())
    return OneVsRest(log_p[:, 1:], log_not_p[:, 1:])


def bernoulli_divergence(student: OneVsRest, teacher: OneVsRest) -> Tensor:
    r"""Kullback-Leibler divergence between two yes-or-no questions, per voxel and class.

    .. math:: k_c = q_c (\log q_c - \log p_c) + (1 - q_c) (\log(1 - q_c) - \log(1 - p_c))

    with :math:`q` the teacher (a constant) and :math:`p` the student.

    Returns:
        ``(N, C)``, in nats, never negative but for rounding.
    """
    log_q, log_not_q = teacher.log_is.detach(), teacher.log_is_not.detach()
    yes = functional.kl_div(student.log_is, log_q, reduction="none", log_target=True)
    no = functional.kl_div(student.log_is_not, log_not_q, reduction="none", log_target=True)
    return yes + no


def label_consistent_contrast(student: OneVsRest, teacher: OneVsRest, is_reference: Tensor) -> Tensor:
    r"""How much the student should fear the teacher's mistake, where the teacher is wrong about a class.

    .. math:: -q_c \log(1 - p_c) \text{ where } y \ne c, \qquad -(1 - q_c) \log p_c \text{ where } y = c

    with :math:`q` the teacher (a constant) and :math:`p` the student. It always pushes towards the
    reference's side, also where the student is more wrong than the teacher; minus the divergence would not.

    Args:
        student: log-probabilities with gradient, ``(N, C)`` each.
        teacher: the same of the network that is wrong here.
        is_reference: ``(N, C)``, bool, where the reference has the class.

    Returns:
        ``(N, C)``, in nats, never negative.
    """
    missed = -teacher.log_is_not.detach().exp() * student.log_is
    made_up = -teacher.log_is.detach().exp() * student.log_is_not
    return torch.where(is_reference, missed, made_up)
