"""``-tr nnUNetTrainerFedProx``: federated averaging with a proximal term."""

from nnunet_gml.averaging import FedProxTrainer


class nnUNetTrainerFedProx(FedProxTrainer):  # noqa: N801 - nnU-Net's way of naming
    """Federated averaging whose sites are held near the last mean."""
