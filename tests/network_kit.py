"""Small networks as nnU-Net builds them from its plans."""

from __future__ import annotations

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn


def unet(kind: type = PlainConvUNet, norm: type = nn.InstanceNorm3d, seed: int = 0) -> nn.Module:
    """Three stages, four output channels, deep supervision; ``kind`` may be the residual encoder one."""
    torch.manual_seed(seed)
    blocks = "n_conv_per_stage" if kind is PlainConvUNet else "n_blocks_per_stage"
    return kind(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 8, 8],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        num_classes=4,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
        **{blocks: 1},
    )
