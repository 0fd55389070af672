"""FedProx's proximal term (arXiv:1812.06127): local training may not drift far from where it began."""

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_gml.tensors import unwrap


class ProximalTerm:
    r"""Adds the gradient of :math:`\frac{\mu}{2} \lVert \theta - \theta_0 \rVert^2` before every step.

    It hooks the optimiser's step, so it acts after gradients are unscaled and clipped, and never in a step
    that the gradient scaler skips. The loss stays nnU-Net's, and its curve comparable. A parameter without
    a gradient is left alone, as the optimiser leaves it.

    Nothing pulls before the first `anchor_here`. The anchor is one more copy of the parameters on their
    device, and in no checkpoint: whoever continues a run sets it again.

    Args:
        network: its parameters are held.
        optimizer: the one that moves them.
        weight: :math:`\mu`, 0 or more; 0 changes nothing, not even the last bit.

    Raises:
        ValueError: the weight is negative; the optimiser unscales gradients by itself (``fused=True``), so
            that the hook would see scaled ones.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, weight: float) -> None:
        if not weight >= 0:
            raise ValueError(f"weight is {weight}, but must be at least 0")
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError("a fused optimiser cannot have a proximal term: leave out fused=True")
        self.weight = weight
        self._parameters = list(unwrap(network).parameters())
        self._anchor: list[Tensor] = []
        self._hook = optimizer.register_step_pre_hook(self._pull)

    def anchor_here(self) -> None:
        """From now on pull towards the weights as they are now; the end of each round."""
        self._anchor = [parameter.detach().clone() for parameter in self._parameters]

    def remove(self) -> None:
        """Let the optimiser go on without the term, and free the anchor."""
        self._hook.remove()
        self._anchor = []

    @torch.no_grad()
    def _pull(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        if self.weight == 0 or not self._anchor:
            return
        for parameter, anchor in zip(self._parameters, self._anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self.weight)
