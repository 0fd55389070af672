"""`python benchmarks/distillation.py`: memory and time of the distillation loss, on a patch of full size.

Beside a stock training step of nnU-Net. Writes docs/results/distillation.md; minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from distillation_page import Memory, Time, page
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from measuring import Figures, figures
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from patch import Patch, random_patch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.learners import Learner
from nnunet_gml.precision import mixed

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "distillation.md"
FULL = (2, 16, 96, 128, 128)
SMALL = (2, 16, 48, 64, 64)
FOREGROUND = (0.08, 1.0)
"""Organs fill less than a tenth of a head-and-neck patch; and the worst case."""
TYPES = (torch.float32, torch.float16)
"""Of the logits: the second is nnU-Net's under autocast on a GPU; the loss computes in float32 anyway."""
LOSSES = {
    "agree": ClassWiseDistillation(),
    "agree, contrast": ClassWiseDistillation(contrast_weight=0.5),
}
FEATURES = (32, 64, 128, 256, 320, 320)
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
"""nnU-Net's plan for a patch of 96x128x128: the axis that is down to 6 voxels is not halved again."""
REMARK = """\
On a CPU the step of the full patch takes long, so time is measured on an eighth of it, with the same
network; loss and step both grow with the number of voxels.
{cuda}
"""
WITH_CUDA = "On CUDA it is measured on the full patch."
WITHOUT_CUDA = "There was no GPU; where there is one, the command adds its rows."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs behind each median of seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    memory = [row for device in devices for dtype in TYPES for row in memory_rows(device, FULL, dtype)]
    times = [
        row for device in devices for row in time_rows(device, patch_for(device), args.repeats, FEATURES)
    ]
    parameters = sum(p.numel() for p in standard_network(FULL[1], FEATURES).parameters())
    remark = REMARK.format(cuda=WITH_CUDA if len(devices) > 1 else WITHOUT_CUDA)
    text = page(memory, times, args.repeats, parameters, remark)
    args.out.write_text(text)
    sys.stdout.write(text)
    return 0


def patch_for(device: torch.device) -> tuple[int, ...]:
    """The patch that a training step is timed on."""
    return FULL if device.type == "cuda" else SMALL


def memory_rows(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> list[Memory]:
    """Every loss on a real and on a worst patch."""
    words_of_logits = f"{'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
    rows = []
    for foreground in FOREGROUND:
        patch = on(random_patch(shape, foreground), device, dtype)
        unit_bytes = patch.logits.numel() * patch.logits.element_size()
        for name, loss in LOSSES.items():
            forward = peak_bytes(lambda: pull(loss, patch), device)  # noqa: B023 - called at once
            whole = peak_bytes(lambda: gradient(loss, patch), device)  # noqa: B023 - called at once
            rows.append(
                Memory(
                    words(device),
                    words_of_logits,
                    name,
                    patch.foreground,
                    unit_bytes / 2**20,
                    forward / unit_bytes,
                    whole / unit_bytes,
                )
            )
    return rows


def time_rows(
    device: torch.device, shape: tuple[int, ...], repeats: int, features: Sequence[int]
) -> list[Time]:
    """Every loss on a real and on a worst patch, beside the same step."""
    step = seconds(stock_step(device, shape, features), device, repeats)
    rows = []
    for foreground in FOREGROUND:
        patch = on(random_patch(shape, foreground), device)
        for name, loss in LOSSES.items():
            spent = seconds(lambda: gradient(loss, patch), device, repeats)  # noqa: B023 - called at once
            rows.append(Time(words(device), "x".join(map(str, shape)), name, patch.foreground, spent, step))
    return rows


def pull(loss: ClassWiseDistillation, patch: Patch) -> Tensor:
    """The loss with a graph, every class trusted and labelled."""
    classes = patch.logits.shape[1] - 1
    everyone = torch.ones(classes, device=patch.logits.device)
    return loss(patch.logits, patch.peer_logits, patch.target, everyone, everyone.bool()).loss


def gradient(loss: ClassWiseDistillation, patch: Patch) -> Tensor:
    """Forward and backward."""
    return torch.autograd.grad(pull(loss, patch), patch.logits)[0]


def on(patch: Patch, device: torch.device, dtype: torch.dtype = torch.float32) -> Patch:
    """The patch on a device, with a gradient to our logits."""
    logits, peer_logits = (tensor.to(device, dtype) for tensor in (patch.logits, patch.peer_logits))
    return Patch(logits.requires_grad_(), peer_logits, patch.target.to(device))


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most memory that the work held at once, beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, int(np.cumsum(sizes).max())) if sizes else 0


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> Figures:
    """Each run after a first one that does not count: CPU seconds of one thread, or wall time on CUDA."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    threads, spent = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(repeats + 1):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(clock() - start)
    torch.set_num_threads(threads)
    return figures(spent[1:])


def standard_network(channels: int, features: Sequence[int]) -> nn.Module:
    """nnU-Net's 3d_fullres network for one image channel and a patch of 96x128x128."""
    stages = len(features)
    return PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=features,
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=STRIDES[:stages],
        n_conv_per_stage=2,
        num_classes=channels,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )


def stock_step(device: torch.device, shape: tuple[int, ...], features: Sequence[int]) -> Callable[[], object]:
    """nnU-Net's training step, ready to be called."""
    network = standard_network(shape[1], features).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler("cuda") if device.type == "cuda" else None
    who = Learner(network, optimizer, scaler)
    data = torch.randn((shape[0], 1, *shape[2:]), device=device)
    target = random_patch(shape, FOREGROUND[0]).target.to(device).float()
    targets = [functional.interpolate(target, size=scale.shape[2:]) for scale in network(data.detach())]
    supervise = stock_loss(len(targets))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with mixed(device.type):
            loss = supervise(network(data), targets)
        who.step(loss)

    return step


def stock_loss(scales: int) -> nn.Module:
    """Dice and cross entropy at all scales but the coarsest, each half as much as the finer one."""
    weights = np.array([1 / 2**scale for scale in range(scales - 1)] + [0.0])
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    return DeepSupervisionWrapper(loss, weights / weights.sum())


def words(device: torch.device) -> str:
    """What the tables call a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main())
