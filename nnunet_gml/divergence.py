"""Yes-or-no questions about classes, in log space, and how far two networks' answers are apart."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Questions(NamedTuple):
    """Which class is asked about at which voxel, M questions; ``(M,)`` each, int64."""

    voxel: Tensor
    """Row of the logits."""
    number: Tensor
    """Foreground class, from 0."""


class OneVsRest(NamedTuple):
    """Log-probabilities of foreground classes against all the rest, one for each question."""

    log_is: Tensor
    log_is_not: Tensor


def questions_in(mask: Tensor) -> Questions:
    """One for every voxel and class of a mask ``(N, C)``, bool; voxel after voxel."""
    return Questions(*mask.nonzero(as_tuple=True))


def one_vs_rest(logits: Tensor, questions: Questions, has_regions: bool) -> OneVsRest:
    r"""Log-probability of a foreground class at a voxel, and of its opposite, for each question.

    .. math:: \log p_c = z_c - \mathrm{lse}(z), \quad
              \log(1 - p_c) = \mathrm{lse}_{k \ne c}(z) - \mathrm{lse}(z)

    for softmax, and :math:`\log\sigma(z_c)`, :math:`\log\sigma(-z_c)` for nnU-Net's regions. Both stay
    finite, and keep their gradient, where a probability rounds to 0 or 1.

    Args:
        logits: ``(N, K)``, one row per voxel. Softmax: channel 0 is the background, so C = K - 1;
            regions: every channel is a class, so C = K.
        questions: M of them.
        has_regions: the channels are nnU-Net regions (sigmoid) rather than labels (softmax).

    Returns:
        Two tensors ``(M,)``, in nats.

    Example:
        >>> one_vs_rest(torch.zeros(1, 4), questions_in(torch.ones(1, 3).bool()), False).log_is_not.exp()
        tensor([0.7500, 0.7500, 0.7500])
    """
    voxel, channel = questions.voxel, questions.number + (0 if has_regions else 1)
    asked = logits.flatten().index_select(0, voxel * logits.shape[1] + channel)
    if has_regions:
        return OneVsRest(functional.logsigmoid(asked), functional.logsigmoid(-asked))
    largest = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, largest, -torch.inf).logsumexp(dim=1)
    everything = torch.logaddexp(logits.gather(1, largest).squeeze(1), others)
    log_p = asked - everything.index_select(0, voxel)
    # 1 - p cancels only where p is above 1/2, which is one class at most: the largest.
    is_largest = channel == largest.squeeze(1).index_select(0, voxel)
    log_others = (others - everything).index_select(0, voxel)
    log_not_p = (-log_p.masked_fill(is_largest, -torch.inf).exp()).log1p()
    return OneVsRest(log_p, torch.where(is_largest, log_others, log_not_p))


def log_probabilities(logits: Tensor, has_regions: bool) -> Tensor:
    """Of every foreground class, ``(N, K)`` to ``(N, C)``, in nats; see `one_vs_rest`."""
    return functional.logsigmoid(logits) if has_regions else logits.log_softmax(dim=1)[:, 1:]


def bernoulli_divergence(student: OneVsRest, teacher: OneVsRest) -> Tensor:
    r"""Kullback-Leibler divergence between two answers to the same questions.

    .. math:: k_c = q_c (\log q_c - \log p_c) + (1 - q_c) (\log(1 - q_c) - \log(1 - p_c))

    with :math:`q` the teacher (a constant) and :math:`p` the student.

    Returns:
        One number for each question, in nats, never negative but for rounding.
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
        student: log-probabilities with gradient.
        teacher: the same of the network that is wrong here.
        is_reference: bool, for each question whether the reference has the class.

    Returns:
        One number for each question, in nats, never negative.
    """
    missed = -teacher.log_is_not.detach().exp() * student.log_is
    made_up = -teacher.log_is.detach().exp() * student.log_is_not
    return torch.where(is_reference, missed, made_up)
