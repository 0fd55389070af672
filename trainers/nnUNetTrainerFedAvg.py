"""``-tr nnUNetTrainerFedAvg``: federated averaging in lock-step, without a server."""

from nnunet_gml.averaging import FedAvgTrainer


class nnUNetTrainerFedAvg(FedAvgTrainer):  # noqa: N801 - nnU-Net's way of naming
    """The mean of all sites' weights at the end of each round."""
