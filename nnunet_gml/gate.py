"""The gate: a fixed list of validation patches on which our network and the peer's are compared."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_gml.trust import Scores

Batch = Mapping[str, Any]


def base_loader(augmenter: Any) -> Any:  # noqa: ANN401 - batchgenerators is not typed
    """nnU-Net's own data loader inside batchgenerators' single- or multi-process augmenter."""
    return augmenter.data_loader if hasattr(augmenter, "data_loader") else augmenter.generator


def fixed_batches(validation_augmenter: Any, count: int, *seed: object) -> list[Batch]:  # noqa: ANN401
    """The same ``count`` validation batches for the same seed; what training draws later is not changed."""
    loader = base_loader(validation_augmenter)
    with randomness_of(*seed):
        return [next(loader) for _ in range(count)]


def digest(batches: list[Batch]) -> str:
    """SHA-256 (hex) of the batches' images: tells after a ``--c`` whether they are still the same."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(torch.as_tensor(batch["data"]).contiguous().numpy().tobytes())
    return found.hexdigest()


@contextmanager
def randomness_of(*seed: object) -> Iterator[None]:
    """Seed Python's, numpy's and torch's CPU generators from the words of ``seed``, and restore them."""
    number = int.from_bytes(hashlib.sha256("/".join(map(str, seed)).encode()).digest()[:4], "big")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(number)
        np.random.seed(number)
        torch.default_generator.manual_seed(number)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def score(
    network: nn.Module, batches: list[Batch], validation_step: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> Scores:
    """Dice per class of a network, from nnU-Net's own ``validation_step`` on each batch."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        scores = Scores.from_outputs([validation_step(_own_target(batch)) for batch in batches])
    network.train(was_training)
    return scores


def _own_target(batch: Batch) -> dict[str, Any]:
    """The batch with a copy of its target: nnU-Net writes into it where there is an ignore label."""
    target = batch["target"]
    copied = [scale.clone() for scale in target] if isinstance(target, list) else target.clone()
    return {**batch, "target": copied}
