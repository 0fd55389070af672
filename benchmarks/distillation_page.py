"""The results of benchmarks/distillation.py as a page of Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from measuring import Figures

from nnunet_gml.markdown import markdown_table

MEMORY_TARGET = 2.0
"""Extra tensors of the logits' size, the logits' gradient included."""
TIME_TARGET = 0.05
"""Share of a stock training step."""
MEMORY_HEADS = ["device", "logits", "MiB", "loss", "foreground", "forward", "forward and backward", "target"]


@dataclass(frozen=True)
class Memory:
    """Peak memory of one forward and backward of the loss, beyond what it was given."""

    device: str
    patch: str
    loss: str
    foreground: float
    logits_mib: float
    forward: float
    """Peak until the loss's value, in tensors of the logits' size."""
    whole: float
    """Peak until the gradient, in the same unit."""


@dataclass(frozen=True)
class Time:
    """Forward and backward of the loss beside a stock training step on the same patch."""

    device: str
    patch: str
    loss: str
    foreground: float
    loss_seconds: Figures
    step_seconds: Figures

    @property
    def share(self) -> float:
        """Of the step."""
        return self.loss_seconds.median / self.step_seconds.median


ABOUT = """\
# What the distillation loss costs

Made by `make bench-distillation`. The loss of one direction: our network's logits, the peer's, and
the reference, to the loss and its gradient at our logits. Mutual learning has two networks and two of these.

The patches are smooth random blobs of 15 organs, seen alike by both networks but for their edges.
*Foreground*: share of voxels in which the reference or either network sees an organ, and which the loss
therefore looks at; 100 % is the worst case.
"""
MEMORY = """\
Peak memory beyond logits, peer's logits and reference, in tensors of the logits' size. One of them is the
gradient, which every loss has to hand to the network. On a CPU: every allocation and release that
torch.profiler saw; on CUDA: the allocator's own peak. What the loss needs beside the gradient hardly grows
with the patch, because it goes through the voxels in pieces. Under autocast logits are float16, and half as
large; the loss computes in float32 all the same. Target: below {target:g}.
"""
TIME = """\
Medians of {repeats} runs (least to most). *Step*: stock nnU-Net's training step of its standard 3d_fullres
network for the full patch ({parameters:.0f} million parameters, deep supervision, Dice and cross entropy,
gradient clipping, SGD; {precision}). On a CPU: CPU seconds of one thread, which other work on
the machine disturbs least; on CUDA: wall time. Target: below {share:.0%}.
"""


def page(memory: Sequence[Memory], times: Sequence[Time], repeats: int, parameters: int, remark: str) -> str:
    """The whole page."""
    devices = {time.device for time in times}
    precision = "float32 on a CPU" + (", mixed precision on CUDA" if devices != {"CPU"} else "")
    texts = {
        "target": MEMORY_TARGET,
        "repeats": repeats,
        "parameters": parameters / 1e6,
        "precision": precision,
        "share": TIME_TARGET,
    }
    sections = [
        ABOUT,
        "## Memory\n",
        MEMORY.format(**texts),
        markdown_table(
            [
                MEMORY_HEADS,
                *map(memory_cells, memory),
            ]
        ),
        "## Time\n",
        TIME.format(**texts),
        markdown_table(
            [
                ["device", "logits", "loss", "foreground", "loss's time", "step's time", "share", "target"],
                *map(time_cells, times),
            ]
        ),
        remark,
        f"On {os.cpu_count()} CPU cores with a load average of {os.getloadavg()[1]:.1f}; python "
        f"{platform.python_version()}, torch {version('torch')}, nnunetv2 {version('nnunetv2')}.\n",
    ]
    return "\n".join(section for section in sections if section.strip())


def memory_cells(memory: Memory) -> list[str]:
    """One row."""
    return [
        memory.device,
        memory.patch,
        f"{memory.logits_mib:.0f}",
        memory.loss,
        f"{memory.foreground:.0%}",
        f"{memory.forward:.2f}",
        f"{memory.whole:.2f}",
        verdict(memory.whole < MEMORY_TARGET),
    ]


def time_cells(time: Time) -> list[str]:
    """One row."""
    return [
        time.device,
        time.patch,
        time.loss,
        f"{time.foreground:.0%}",
        seconds(time.loss_seconds),
        seconds(time.step_seconds),
        f"{time.share:.1%}",
        verdict(time.share < TIME_TARGET),
    ]


def seconds(figures: Figures) -> str:
    """Median and extremes.

    >>> seconds(Figures(0.5, 0.25, 1.0))
    '0.500 s (0.250 to 1.000)'
    """
    return f"{figures.median:.3f} s ({figures.least:.3f} to {figures.most:.3f})"


def verdict(met: bool) -> str:
    """Whether a target is met, in a word."""
    return "met" if met else "**missed**"
