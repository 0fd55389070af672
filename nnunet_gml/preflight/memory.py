"""How much GPU memory a training step takes, found without a GPU: it is done on tensors without content.

On torch's meta device every operation knows the shape of its result and computes nothing. nnU-Net's own
network, loss and optimiser go forward and backward there with the plans' patch and batch, while the bytes
that would be alive are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_gml.learners import GRADIENT_NORM
from nnunet_gml.planning.planned import Planned
from nnunet_gml.planning.planned_network import planned_network
from nnunet_gml.preflight.meter import peak_bytes

CUDA_BYTES = 1 << 30
CUDA_SHARE = 0.15
"""What a GPU needs beyond tensors (context, work space of convolutions, gaps): so much, and so much of the
tensors. Chosen to meet what nnU-Net's planners assume of their own plans: within 5 % for the default, L and
XL presets; 20 % more for M."""
MIXED_BYTES = 8
"""Per parameter of a network that learns: its weight, gradient and momentum are float32 in mixed precision,
beside a half-precision copy of the weight; the step here has all three in half precision."""
TEACHER_BYTES = 4
"""The same for a network that only teaches: its weight is float32."""
PULL_TENSORS = 2
"""What the distillation holds, in float32 tensors of the logits' size; 1.6 to 1.9 were measured."""
STEPS = 2
"""The first step makes the optimiser's momentum, the second has it from the start."""


@dataclass(frozen=True)
class Need:
    """Bytes that a training step holds at its worst moment, by what becomes of the peer's network.

    Attributes:
        stock: our network alone.
        frozen: the peer's only teaches (``nnUNetTrainerGMLFrozen``).
        low_memory: both learn, one after the other (``low_memory = True``).
        mutual: both learn at once (``nnUNetTrainerGML``).
    """

    stock: int
    frozen: int
    low_memory: int
    mutual: int


def estimate(plan: Planned, on_gpu: bool = True) -> Need:
    """The memory that a step of this plan takes.

    Args:
        plan: patch, batch and network.
        on_gpu: in mixed precision, with what CUDA needs beside tensors; False: float32 tensors alone.
    """
    step = _Step(plan, torch.float16 if on_gpu else torch.float32)

    def need(tensor_bytes: int) -> int:
        return int(CUDA_BYTES + (1 + CUDA_SHARE) * tensor_bytes) if on_gpu else tensor_bytes

    return Need(need(step.stock()), need(step.frozen()), need(step.low_memory()), need(step.mutual()))


class _Learner:
    """A network and its optimiser, on the meta device."""

    def __init__(self, plan: Planned, dtype: torch.dtype) -> None:
        self.network = planned_network(plan).to(dtype)
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )

    def step(self, loss: Tensor) -> None:
        """As in `nnunet_gml.mutual.Learner`, without a scaler."""
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self._optimizer.step()

    def begin(self) -> None:
        """Drop the gradients of the step before."""
        self._optimizer.zero_grad(set_to_none=True)


@dataclass
class _Step:
    """Training steps in the four ways in which a peer can be there; each returns its bytes."""

    plan: Planned
    dtype: torch.dtype
    data: Tensor = field(init=False)
    parameters: int = field(init=False)

    def __post_init__(self) -> None:
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(dict(self.plan.plans))
        configuration = manager.get_configuration(self.plan.configuration)
        channels = determine_num_input_channels(manager, configuration, self.plan.dataset_json)
        shape = (configuration.batch_size, channels, *configuration.patch_size)
        self.data = torch.empty(shape, dtype=self.dtype, device="meta")
        has_regions = manager.get_label_manager(self.plan.dataset_json).has_regions
        self._loss = _nnunet_loss(has_regions, configuration.batch_dice)
        self._target_channels = None if has_regions else 1
        self.parameters = sum(p.numel() for p in planned_network(self.plan).parameters())

    def stock(self) -> int:
        def work() -> None:
            ours = self._learner()
            for _ in range(STEPS):
                self._learn(ours)

        return peak_bytes(work) + self._beyond(learners=1)

    def frozen(self) -> int:
        def work() -> None:
            ours, theirs = self._learner(), planned_network(self.plan).to(self.dtype)
            for _ in range(STEPS):
                with torch.no_grad():
                    taught = theirs(self.data)
                self._learn(ours, taught)
                del taught

        return peak_bytes(work) + self._beyond(learners=1, teachers=1)

    def low_memory(self) -> int:
        def work() -> None:
            ours, theirs = self._learner(), self._learner()
            for _ in range(STEPS):
                for one, other in ((ours, theirs), (theirs, ours)):
                    with torch.no_grad():
                        taught = other.network(self.data)
                    self._learn(one, taught)
                    del taught

        return peak_bytes(work) + self._beyond(learners=2)

    def mutual(self) -> int:
        def work() -> None:
            both = self._learner(), self._learner()
            for _ in range(STEPS):
                for learner in both:
                    learner.begin()
                outputs = [learner.network(self.data) for learner in both]
                losses = [self._loss_of(output) for output in outputs]
                pulls = [_pull(output) for output in outputs]
                for learner in both:
                    learner.step(losses.pop(0))
                    pulls.pop(0)
                del outputs

        return peak_bytes(work) + self._beyond(learners=2)

    def _learner(self) -> _Learner:
        return _Learner(self.plan, self.dtype)

    def _learn(self, learner: _Learner, taught: Sequence[Tensor] | None = None) -> None:
        """Supervision, with the pull towards what has been taught beside it."""
        learner.begin()
        output = learner.network(self.data)
        pull = [] if taught is None else _pull(output)
        learner.step(self._loss_of(output))
        del pull, output  # nnU-Net keeps the output until the step is done

    def _loss_of(self, output: Sequence[Tensor]) -> Tensor:
        targets = [
            torch.empty((len(o), self._target_channels or o.shape[1], *o.shape[2:]), device="meta")
            for o in output
        ]
        loss: Tensor = self._loss([o.float() for o in output], targets)
        return loss

    def _beyond(self, learners: int, teachers: int = 0) -> int:
        """What mixed precision holds in float32 and the step here did not."""
        if self.dtype == torch.float32:
            return 0
        return self.parameters * (learners * MIXED_BYTES + teachers * TEACHER_BYTES)


def _pull(output: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty(output[0].shape, device="meta") for _ in range(PULL_TENSORS)]


def _nnunet_loss(has_regions: bool, batch_dice: bool) -> Any:  # noqa: ANN401 - nnU-Net's, not typed
    """nnU-Net's own loss for labels or regions, with its deep supervision."""
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": has_regions, "ddp": False}
    kind = DC_and_BCE_loss if has_regions else DC_and_CE_loss
    single = (
        kind({}, dice, dice_class=MemoryEfficientSoftDiceLoss)
        if has_regions
        else kind(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    )

    def loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """All scales but the coarsest, as nnU-Net weights them; the weights do not change the bytes."""
        kept = list(zip(outputs, targets, strict=True))[: max(1, len(outputs) - 1)]
        return torch.stack([single(output, target) for output, target in kept]).sum()

    return loss
