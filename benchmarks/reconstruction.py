"""What a network loses by travelling as a payload of one type: bytes, weights, logits, classes, Dice."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import TypeVar

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from nnunet_gml import weights

Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """One preprocessed case: image ``(channels, *spatial)``, float32; labels ``(*spatial)``."""

    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Model:
    """A trained network and how it sees an image.

    Attributes:
        network: without deep supervision; its classes exclude each other.
        patch: voxels per axis; smaller images are padded to it, as nnU-Net does.
        divisor: voxels per axis; padded images are a multiple of it.
    """

    network: nn.Module
    patch: tuple[int, ...]
    divisor: tuple[int, ...]


@dataclass(frozen=True)
class Journey:
    """How a network was written and read: medians, with every check of a peer's weights."""

    written: str
    file_bytes: int
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Loss:
    """A network against the same network with other weights, over all cases."""

    weights: float
    """Norm of the difference of all weights, relative to the norm of the weights."""
    logits: float
    """The same of the logits in all voxels and classes of all cases."""
    voxels: float
    """Fraction of voxels whose class changes."""
    dice: tuple[float, ...]
    """Dice of each foreground class before, mean over cases; nan for a class in no case."""
    dice_change: tuple[float, ...]


def journey(network: nn.Module, dtype: str, runs: int) -> tuple[Journey, dict[str, Tensor]]:
    """Write a network and read it as a peer would; also what was read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        written, encode_seconds = timed(lambda: weights.write(network, path, dtype), runs)
        (tensors, _), decode_seconds = timed(lambda: weights.read(path, network, written), runs)
        return Journey(written, path.stat().st_size, encode_seconds, decode_seconds), tensors


def timed(work: Callable[[], Result], runs: int) -> tuple[Result, float]:
    """What ``work`` returns, and the median of its seconds."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, median(seconds)


class Reference:
    """What a network says about some cases, to compare others with.

    Args:
        model: the network before any journey.
        cases: on which it is compared.
    """

    def __init__(self, model: Model, cases: Sequence[Case]) -> None:
        self.model, self.cases = model, cases
        self._tensors = weights.named_tensors(model.network)
        self._logits = [logits_of(model, case.image) for case in cases]
        self._dice = mean_dice(self._logits, cases)

    def loss(self, tensors: dict[str, Tensor]) -> Loss:
        """Compare the network with the same network holding ``tensors``."""
        other = replace(self.model, network=copy.deepcopy(self.model.network))
        weights.put(tensors, other.network)
        logits = [logits_of(other, case.image) for case in self.cases]
        after = mean_dice(logits, self.cases)
        return Loss(
            relative_error(self._tensors.values(), [tensors[name] for name in self._tensors]),
            relative_error(self._logits, logits),
            changed_fraction(self._logits, logits),
            self._dice,
            tuple(b - a for a, b in zip(self._dice, after, strict=True)),
        )


@torch.no_grad()
def logits_of(model: Model, image: Tensor) -> Tensor:
    """``(classes, *spatial)``, float32, of the whole image in one pass.

    nnU-Net's own sliding window keeps logits as float16: too coarse for what is measured here.
    """
    padded, inside = pad_nd_image(image, model.patch, "constant", {"value": 0}, True, model.divisor)
    logits = model.network.eval()(padded[None])[0]
    return logits[(slice(None), *inside[1:])]


def relative_error(before: Iterable[Tensor], after: Iterable[Tensor]) -> float:
    """Norm of all differences, relative to the norm of what was before."""
    gap = norm = 0.0
    for a, b in zip(before, after, strict=True):
        gap += float((b.double() - a.double()).square().sum())
        norm += float(a.double().square().sum())
    return math.sqrt(gap / norm)


def changed_fraction(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Fraction of voxels in which another class has the largest logit."""
    changed = sum(int((a.argmax(0) != b.argmax(0)).sum()) for a, b in zip(before, after, strict=True))
    return changed / sum(logits[0].numel() for logits in before)


def mean_dice(logits: Sequence[Tensor], cases: Sequence[Case]) -> tuple[float, ...]:
    """Dice of each foreground class, mean over the cases in which prediction or labels have it."""
    pairs = [(voxels.argmax(0), case.labels) for voxels, case in zip(logits, cases, strict=True)]
    classes = range(1, len(logits[0]))
    return tuple(mean([dice(found == c, labels == c) for found, labels in pairs]) for c in classes)


def dice(predicted: Tensor, labelled: Tensor) -> float:
    """Of two masks; nan if both are empty."""
    volume = int(predicted.sum()) + int(labelled.sum())
    return 2 * int((predicted & labelled).sum()) / volume if volume else math.nan


def mean(numbers: Sequence[float]) -> float:
    """Of the numbers that are known; nan if none is."""
    known = [number for number in numbers if not math.isnan(number)]
    return fmean(known) if known else math.nan
