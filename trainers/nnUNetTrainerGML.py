"""``-tr nnUNetTrainerGML``: gossip mutual learning, both networks learn."""

from nnunet_gml.learning import GossipTrainer


class nnUNetTrainerGML(GossipTrainer):  # noqa: N801 - nnU-Net's way of naming
    """Gossip mutual learning: our network and a random peer's learn from each other on local data."""
