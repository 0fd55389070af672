"""Class-wise, mask-focused distillation: how one network's output pulls at another's.

Every foreground class is a question of its own, "this class or not", asked only where that class
matters. The idea is a multi-class gossip mutual learning after Chen and Yuan (arXiv:2401.06180,
arXiv:2503.03883); the formulas are ours.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MaskKind = Literal["gt", "union", "agree"]
MASK_KINDS: tuple[MaskKind, ...] = ("gt", "union", "agree")


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
    return OneVsRest(
        logits[:, 1:] - everything,
        _logsumexp_of_the_others(logits)[:, 1:] - everything,
    )


def _logsumexp_of_the_others(logits: Tensor) -> Tensor:
    """For every channel the logsumexp over all other channels; ``(N, K)`` to ``(N, K)``, O(K)."""
    nothing = logits.new_full((len(logits), 1), -torch.inf)
    before = torch.cat([nothing, logits[:, :-1].logcumsumexp(dim=1)], dim=1)
    after = torch.cat([logits[:, 1:].flip(1).logcumsumexp(dim=1).flip(1), nothing], dim=1)
    first, middle, last = after[:, :1], torch.logaddexp(before[:, 1:-1], after[:, 1:-1]), before[:, -1:]
    return torch.cat([first, middle, last], dim=1)


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


class Voxels(NamedTuple):
    """The voxels in which any foreground class matters; every tensor is one row per voxel."""

    logits: Tensor
    """``(N, K)``, float32, with gradient."""
    peer_logits: Tensor
    """``(N, K)``, float32, constant."""
    is_labelled: Tensor
    """``(N, C)``, bool: the reference has class c here."""
    is_ours: Tensor
    """``(N, C)``, bool: our network says class c here."""
    is_peers: Tensor
    """``(N, C)``, bool: the peer's network says class c here."""


def gather_voxels(
    logits: Tensor, peer_logits: Tensor, target: Tensor, has_regions: bool, ignore_label: int | None
) -> Voxels:
    """Collect once the voxels that are in the mask of any class; background agreed by all is left out.

    Args:
        logits: ours, ``(B, K, *spatial)``.
        peer_logits: the peer's, same shape; no gradient reaches them.
        target: nnU-Net's target. Softmax: label numbers ``(B, 1, *spatial)``. Regions: one channel per
            region ``(B, K, *spatial)``, and with an ignore label one more, last, that marks it.
        has_regions: regions (sigmoid) rather than labels (softmax).
        ignore_label: the number that marks voxels nobody has contoured, or None.
    """
    peer_logits = peer_logits.detach()
    classes = logits.shape[1]
    if has_regions:
        sides = [target[:, :classes] > 0, logits > 0, peer_logits > 0]
        foreground = torch.stack([side.any(dim=1) for side in sides]).any(dim=0)
        ignored = target[:, classes] > 0 if ignore_label is not None else None
    else:
        sides = [target[:, 0], logits.argmax(dim=1), peer_logits.argmax(dim=1)]
        foreground = torch.stack([side > 0 for side in sides]).any(dim=0)
        ignored = target[:, 0] == ignore_label if ignore_label is not None else None
    kept = foreground if ignored is None else foreground & ~ignored
    return Voxels(
        _rows(logits, kept).float(),
        _rows(peer_logits, kept).float(),
        *(_rows(side, kept) if has_regions else _one_hot(side[kept], classes) for side in sides),
    )


def _rows(tensor: Tensor, kept: Tensor) -> Tensor:
    """The channels of the kept voxels, ``(B, K, *spatial)`` to ``(N, K)``, without copying the rest."""
    return tensor.movedim(1, -1)[kept]


def _one_hot(label: Tensor, channels: int) -> Tensor:
    """Label numbers ``(N,)`` as foreground classes ``(N, channels - 1)``, bool."""
    return label[:, None] == torch.arange(1, channels, device=label.device)


def class_masks(voxels: Voxels, mask: MaskKind) -> Tensor:
    """Where each class is compared: ``(N, C)``, bool.

    ``gt``: the reference has the class. ``union``: the reference or either network has it.
    ``agree``: inside the union, where the peer is right about it, be it yes or no.

    Raises:
        ValueError: another kind of mask.
    """
    if mask == "gt":
        return voxels.is_labelled
    union = voxels.is_labelled | voxels.is_ours | voxels.is_peers
    if mask == "union":
        return union
    if mask == "agree":
        return union & (voxels.is_peers == voxels.is_labelled)
    raise ValueError(f"mask is {mask!r}, but must be one of {', '.join(MASK_KINDS)}")


@dataclass(frozen=True)
class ClassWiseDistillation:
    r"""Pull one network towards another, class by class, where the class matters.

    .. math:: L = \frac{1}{|\mathcal{C}|} \sum_{c \in \mathcal{C}} \pi_c T^2
              \frac{\sum_{x \in A_c} k_c(x)}{|A_c| + s}

    over the active classes :math:`\mathcal{C} = \{c : |A_c| \ge n_{min}`, labelled at both sites
    :math:`\}`. Outputs are divided by the temperature :math:`T` first. Computed in float32 whatever
    autocast says.

    Attributes:
        has_regions: the network's channels are nnU-Net regions (sigmoid), not labels (softmax).
        ignore_label: label number that marks voxels nobody has contoured, or None.
        mask: which voxels a class is compared in, see `class_masks`.
        temperature: softens both outputs; 1 leaves them as they are.
        smoothing: :math:`s`, voxels added to every denominator, so that a tiny mask does not shout.
        minimum_voxels: :math:`n_{min}`, a class with a smaller mask is left out of this step.
    """

    has_regions: bool = False
    ignore_label: int | None = None
    mask: MaskKind = "agree"
    temperature: float = 1.0
    smoothing: float = 64.0
    minimum_voxels: int = 8

    def __call__(
        self, logits: Tensor, peer_logits: Tensor, target: Tensor, trust: Tensor, labelled: Tensor
    ) -> Tensor:
        """The loss of one step; see `gather_voxels` for the shapes of the first three.

        Args:
            logits: the student's output at full resolution.
            peer_logits: the teacher's output for the same batch; no gradient reaches it.
            target: nnU-Net's target at full resolution.
            trust: ``(C,)`` in [0, 1], how far the teacher is believed in each class.
            labelled: ``(C,)``, bool, the classes that both sites contour.

        Returns:
            Scalar, float32. 0 when no class is active.

        Raises:
            ValueError: the two outputs differ in shape, or trust does not fit the classes.
        """
        self._check(logits, peer_logits, trust, labelled)
        with _no_autocast(logits.device.type):
            voxels = gather_voxels(logits, peer_logits, target, self.has_regions, self.ignore_label)
            masks = class_masks(voxels, self.mask)
            sizes = masks.sum(dim=0)
            active = (sizes >= self.minimum_voxels) & labelled
            if not active.any():
                return torch.zeros((), device=logits.device)
            student = one_vs_rest(voxels.logits / self.temperature, self.has_regions)
            teacher = one_vs_rest(voxels.peer_logits / self.temperature, self.has_regions)
            divergence = torch.where(masks & active, bernoulli_divergence(student, teacher), 0.0)
            per_class = divergence.sum(dim=0) / (sizes + self.smoothing)
            return self.temperature**2 * (trust * per_class).sum() / active.sum()

    def _check(self, logits: Tensor, peer_logits: Tensor, trust: Tensor, labelled: Tensor) -> None:
        if logits.shape != peer_logits.shape:
            raise ValueError(
                f"peer_logits has shape {tuple(peer_logits.shape)}, but logits has {tuple(logits.shape)}: "
                "were both networks built from the same plans?"
            )
        classes = (logits.shape[1] - (0 if self.has_regions else 1),)
        for name, tensor in (("trust", trust), ("labelled", labelled)):
            if tensor.shape != classes:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but expected {classes}")


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    """Full precision inside a mixed-precision step; a device without autocast needs nothing."""
    if torch.amp.autocast_mode.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
