"""``-tr nnUNetTrainerGMLFrozen``: gossip distillation, the peer's network only teaches."""

from nnunet_gml.learning import FrozenGossipTrainer


class nnUNetTrainerGMLFrozen(FrozenGossipTrainer):  # noqa: N801 - nnU-Net's way of naming
    """Gossip distillation: half the memory and two thirds of the time of the mutual step."""
