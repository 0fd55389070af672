"""The rounds of a default training, by the product's own schedule."""

from __future__ import annotations

from nnunet_gml.learning import GossipTrainer
from peer_sync.gossip import is_round_end

EPOCHS = 1000
"""Of nnU-Net's default training."""


def default_rounds() -> list[int]:
    """Epochs done at each exchange of a training of the default length; none is begun at its end."""
    schedule = (GossipTrainer.warmup_epochs, GossipTrainer.epochs_per_round)
    return [epoch for epoch in range(1, EPOCHS) if is_round_end(epoch, *schedule)]


def rounds_per_100_epochs() -> float:
    """Mean over such a training, warm-up included."""
    return 100 * len(default_rounds()) / EPOCHS
