"""``-tr nnUNetTrainerGML_short``: sixty epochs of one step each, a round after every one of them."""

import torch

from nnunet_gml.learning import GossipTrainer


class nnUNetTrainerGML_short(GossipTrainer):  # noqa: N801 - nnU-Net's way of naming
    """Shows the ways of weights in a minute; nothing is learnt in so few steps."""

    warmup_epochs = 1
    epochs_per_round = 1
    mutual_epochs = 1
    gate_batches = 1

    def initialize(self) -> None:
        """Short epochs, one core, and no picture of the progress."""
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 60, 1, 1
        super().initialize()
        self.logger.plot_progress_png = lambda folder: None  # which takes longer than such an epoch
