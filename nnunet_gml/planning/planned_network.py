"""The network that a plans file describes, without a trainer and, on the meta device, without memory."""

from __future__ import annotations

import torch
from torch import nn

from nnunet_gml.planning.planned import Planned


def planned_network(plan: Planned, device: str = "meta") -> nn.Module:
    """nnU-Net's network for a configuration, with deep supervision, as its trainer builds it.

    Args:
        plan: plans, dataset.json and configuration.
        device: where its tensors are; on ``meta`` they have shapes, and no content.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plan.plans))
    resolved = manager.get_configuration(plan.configuration)
    with torch.device(device):
        network: nn.Module = get_network_from_plans(
            resolved.network_arch_class_name,
            resolved.network_arch_init_kwargs,
            resolved.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, resolved, plan.dataset_json),
            manager.get_label_manager(plan.dataset_json).num_segmentation_heads,
            allow_init=False,
            deep_supervision=True,
        )
    return network
