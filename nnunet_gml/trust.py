"""How far a peer is believed, class by class, from how well it does on our own validation patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DICE_MARGIN = 0.2
"""A peer that is worse than us by this much Dice in a class is no longer believed in it."""
LEAST_DICE = 0.1
"""A peer below this Dice in a class has not learnt it yet."""
MOST_WITHOUT_EVIDENCE = 0.5
"""Trust at most, where we have no voxel of the class to check the peer's own word."""


@dataclass(frozen=True)
class Scores:
    """Dice per class of one network on the gate's patches; nan where the class is not in them.

    Attributes:
        dice: ``(C,)``, float64, from nnU-Net's sums of true and false positives and false negatives.
        is_present: ``(C,)``, bool: the reference has voxels of this class in the patches.
    """

    dice: Tensor
    is_present: Tensor

    @property
    def mean(self) -> float:
        """Mean Dice over the classes that are present; nan when none is."""
        return float(self.dice[self.is_present].mean())

    @classmethod
    def unknown(cls, classes: int) -> "Scores":
        """Scores of a network that was not looked at."""
        return cls(
            torch.full((classes,), torch.nan, dtype=torch.float64), torch.zeros(classes, dtype=torch.bool)
        )

    @classmethod
    def from_outputs(cls, outputs: Sequence[Mapping[str, object]]) -> "Scores":
        """Sum up what nnU-Net's ``validation_step`` returned for each patch: tp_hard, fp_hard, fn_hard."""
        tp, fp, fn = (
            torch.stack([torch.as_tensor(output[key], dtype=torch.float64) for output in outputs]).sum(dim=0)
            for key in ("tp_hard", "fp_hard", "fn_hard")
        )
        return cls(2 * tp / (2 * tp + fp + fn), tp + fn > 0)


def trust_per_class(
    teacher: Scores, student: Scores, labelled: Tensor, declared_dice: Tensor | None = None
) -> Tensor:
    r"""Trust of the student in the teacher, per class.

    .. math:: \pi_c = \mathrm{clip}(1 + (D_{teacher,c} - D_{student,c}) / 0.2,\ 0,\ 1)

    0 where the teacher has not labelled the class, or has a Dice below 0.1 in it. Where we have no voxel
    of the class: the Dice that the teacher declares for itself, at most 0.5, and 0 without a declaration.

    Args:
        teacher: scores of the network that is learnt from.
        student: scores of the network that learns, on the same patches.
        labelled: ``(C,)``, bool, the classes that the teacher's site contours.
        declared_dice: ``(C,)``, the teacher's own word, nan where it says nothing.

    Returns:
        ``(C,)``, float32, in [0, 1].

    Example:
        >>> seen = torch.tensor([True])
        >>> better, worse = (Scores(torch.tensor([dice]), seen) for dice in (0.8, 0.7))
        >>> trust_per_class(worse, better, labelled=seen)
        tensor([0.5000])
    """
    measured = (1 + (teacher.dice - student.dice) / DICE_MARGIN).clamp(0, 1)
    measured = torch.where(teacher.dice < LEAST_DICE, 0.0, measured)
    if declared_dice is None:
        declared_dice = torch.full_like(measured, torch.nan)
    declared = torch.where(declared_dice < LEAST_DICE, 0.0, declared_dice.clamp(max=MOST_WITHOUT_EVIDENCE))
    trust = torch.where(student.is_present, measured, declared.to(measured.dtype).nan_to_num(0.0))
    return torch.where(labelled, trust, 0.0).float()


class TrustMemory:
    """Trust in each peer, smoothed over the meetings with it, so that one lucky patch does not decide.

    The exponential mean of the meetings. A class that is not trusted today is not trusted, whatever was;
    and one that was not trusted then, because the peer had not learnt it yet, is trusted as today says.
    """

    def __init__(self, smoothing: float = 0.5) -> None:
        """Take the share of the past in [0, 1): 0 forgets at once.

        Raises:
            ValueError: another number.
        """
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}, but must be at least 0 and below 1")
        self.smoothing = smoothing
        self._trust: dict[str, Tensor] = {}

    def smoothed(self, peer: str, trust: Tensor) -> Tensor:
        """Trust in a peer after one more meeting, which is remembered.

        Args:
            peer: name of the peer's site.
            trust: ``(C,)`` in [0, 1], from this meeting alone.

        Returns:
            ``(C,)``; at the first meeting ``trust`` as it is.

        Example:
            >>> memory = TrustMemory(smoothing=0.5)
            >>> memory.smoothed("north", torch.tensor([1.0, 1.0]))
            tensor([1., 1.])
            >>> memory.smoothed("north", torch.tensor([0.5, 0.0]))
            tensor([0.7500, 0.0000])
        """
        new = trust.detach().cpu()
        old = self._trust.get(peer, new)
        self._trust[peer] = torch.where((new > 0) & (old > 0), new.lerp(old, self.smoothing), new)
        return self._trust[peer].clone().to(trust.device)

    def state(self) -> dict[str, Tensor]:
        """Trust by peer, for a checkpoint."""
        return {peer: trust.clone() for peer, trust in self._trust.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._trust = {peer: trust.clone() for peer, trust in state.items()}
