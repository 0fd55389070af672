"""``-tr nnUNetTrainerGossipAverage``: the mean with one random peer."""

from nnunet_gml.averaging import GossipAverageTrainer


class nnUNetTrainerGossipAverage(GossipAverageTrainer):  # noqa: N801 - nnU-Net's way of naming
    """Gossip averaging; it moves the bytes of nnUNetTrainerGML."""
