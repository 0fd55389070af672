"""Class-wise, mask-focused distillation: how one network's output pulls at another's.

Every foreground class is a question of its own, "this class or not", asked only where that class
matters. The idea is a multi-class gossip mutual learning after Chen and Yuan (arXiv:2401.06180,
arXiv:2503.03883); the formulas are ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_gml.divergence import (
    OneVsRest,
    Questions,
    bernoulli_divergence,
    label_consistent_contrast,
    log_probabilities,
    one_vs_rest,
    questions_in,
)
from nnunet_gml.masks import (
    MaskKind,
    class_masks,
    contrast_masks,
    foreground_places,
    missing_masks,
    said,
)
from nnunet_gml.precision import full
from nnunet_gml.voxels import Places, Sums, rows, sum_over

__all__ = ["ClassWiseDistillation", "MaskKind", "Pull"]


class Pull(NamedTuple):
    """What one network's output asks of another's in one step."""

    loss: Tensor
    """Scalar, float32; 0 where no class is active."""
    voxels: Tensor
    """``(C,)``, int64: size of each class's mask; 0 for a class that is not compared at all."""


@dataclass(frozen=True)
class ClassWiseDistillation:
    r"""Pull one network towards another, class by class, where the class matters.

    .. math:: L = \frac{1}{|\mathcal{C}|} \sum_{c \in \mathcal{C}} \pi_c T^2
              \frac{\sum_{x \in A_c} k_c(x)}{|A_c| + s}
              + \frac{\mu}{|\mathcal{C}'|} \sum_{c \in \mathcal{C}'} T^2
              \frac{\sum_{x \in W_c} r_c(x)}{|W_c| + s}

    over the active classes :math:`\mathcal{C} = \{c : |A_c| \ge n_{min}\}` that both sites contour; those of
    the teacher's site alone have such a mean of their own, because nothing else teaches them. :math:`k_c`
    is `bernoulli_divergence`. The second sum, off by default, is `label_consistent_contrast` where the
    teacher is wrong about a class that both sites contour, over
    :math:`\mathcal{C}' = \{c : |W_c| \ge n_{min}\}`; trust has no say in it, because the reference has.
    Outputs are divided by the temperature :math:`T` first. Computed in float32 whatever autocast says, and
    in pieces, see `nnunet_gml.voxels`.

    Attributes:
        has_regions: the network's channels are nnU-Net regions (sigmoid), not labels (softmax).
        ignore_label: label number that marks voxels nobody has contoured, or None.
        mask: which voxels a class is compared in, see `class_masks`.
        temperature: softens both outputs; 1 leaves them as they are.
        smoothing: :math:`s`, voxels added to every denominator, so that a tiny mask does not shout.
        minimum_voxels: :math:`n_{min}`, a class with a smaller mask is left out of this step.
        contrast_weight: :math:`\mu`, 0 for no contrast.
    """

    has_regions: bool = False
    ignore_label: int | None = None
    mask: MaskKind = "agree"
    temperature: float = 1.0
    smoothing: float = 64.0
    minimum_voxels: int = 8
    contrast_weight: float = 0.0

    def __call__(
        self,
        logits: Tensor,
        peer_logits: Tensor,
        target: Tensor,
        trust: Tensor,
        labelled: Tensor,
        missing: Tensor | None = None,
    ) -> Pull:
        """The loss of one step; see `foreground_places` for the shapes of the first three.

        Args:
            logits: the student's output.
            peer_logits: the teacher's output for the same batch; no gradient reaches it.
            target: nnU-Net's target at the same resolution.
            trust: ``(C,)`` in [0, 1], how far the teacher is believed in each class.
            labelled: ``(C,)``, bool, the classes that both sites contour.
            missing: ``(C,)``, bool, the classes that only the teacher's site contours. They are compared
                where `missing_masks` says, whatever ``mask`` is.

        Returns:
            The loss, not finite if the teacher is not in a mask, and each class's voxels.

        Raises:
            ValueError: shapes that do not fit one another, or another kind of mask.
        """
        self._check(logits, peer_logits, target, trust=trust, labelled=labelled, missing=missing)
        if missing is not None and not missing.any():
            missing = None
        with full(logits.device.type), torch.no_grad():
            peer_logits = peer_logits.detach()
            places = foreground_places(logits, peer_logits, target, self.has_regions, self.ignore_label)
        with full(logits.device.type):
            sums = sum_over(
                logits,
                places,
                lambda z, at: self._sums(z, rows(peer_logits, at).to(z.dtype), target, at, labelled, missing),
            )
            loss = self._mean(sums, 0, trust, labelled)
            if missing is not None:
                loss = loss + self._mean(sums, 0, trust, missing)
            if self.contrast_weight:
                loss = loss + self.contrast_weight * self._mean(sums, 1, torch.ones_like(trust), labelled)
        return Pull(loss, sums.counts[0])

    def _sums(
        self, z: Tensor, t: Tensor, target: Tensor, places: Places, labelled: Tensor, missing: Tensor | None
    ) -> Sums:
        """Divergence and, if it counts, contrast: summed over some voxels, each ``(1 or 2, C)``."""
        with torch.no_grad():
            says = said(z, t, target, places, self.has_regions)
            masks = [class_masks(says, self.mask) & labelled]
            if missing is not None:
                log_peers = log_probabilities(t, self.has_regions)
                masks[0] |= missing_masks(says, log_peers, self.has_regions) & missing
        asked = questions_in(masks[0])
        terms = [(asked, bernoulli_divergence(self._answers(z, asked), self._answers(t, asked)))]
        if self.contrast_weight:
            masks.append(contrast_masks(says) & labelled)
            asked = questions_in(masks[1])
            student, teacher = self._answers(z, asked), self._answers(t, asked)
            terms.append((asked, label_consistent_contrast(student, teacher, says.reference[asked])))
        values = [value.new_zeros(says.ours.shape).index_put(at, value).sum(dim=0) for at, value in terms]
        return Sums(torch.stack(values), torch.stack([mask.sum(dim=0) for mask in masks]))

    def _answers(self, logits: Tensor, asked: Questions) -> OneVsRest:
        """A network's, at our temperature."""
        if self.temperature != 1:
            logits = logits / self.temperature
        return one_vs_rest(logits, asked, self.has_regions)

    def _mean(self, sums: Sums, row: int, share: Tensor, among: Tensor) -> Tensor:
        """Mean over the active classes of each one's share times its mean over voxels; 0 if none is."""
        sizes = sums.counts[row]
        active = (sizes >= max(1, self.minimum_voxels)) & among
        if not active.any():
            return torch.zeros((), dtype=sums.values.dtype, device=sizes.device)
        per_class = sums.values[row] / (sizes + self.smoothing).clamp_min(1)
        return self.temperature**2 * (share * active * per_class).sum() / active.sum()

    def _check(self, logits: Tensor, peer_logits: Tensor, target: Tensor, **per_class: Tensor | None) -> None:
        if logits.shape != peer_logits.shape:
            raise ValueError(
                f"peer_logits has shape {tuple(peer_logits.shape)}, but logits has {tuple(logits.shape)}: "
                "were both networks built from the same plans?"
            )
        if target.shape[2:] != logits.shape[2:]:
            raise ValueError(f"target has shape {tuple(target.shape)}, but logits {tuple(logits.shape)}")
        classes = (logits.shape[1] - (0 if self.has_regions else 1),)
        for name, tensor in per_class.items():
            if tensor is not None and tensor.shape != classes:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but expected {classes}")
