"""``-tr nnUNetTrainerGCML``: gossip mutual learning that also learns where the peer is wrong."""

from nnunet_gml.learning import ContrastiveGossipTrainer


class nnUNetTrainerGCML(ContrastiveGossipTrainer):  # noqa: N801 - nnU-Net's way of naming
    """Gossip mutual learning with a contrastive term where the peer is wrong."""
