"""What a training step needs of memory, estimated without the memory, against the same step done."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from model_kit import plan_of
from nnunet_kit import build_trainer, use_folders
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.profiler import ProfilerActivity, profile

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.learners import Learner, Method, Peer
from nnunet_gml.mutual import train_with_peer
from nnunet_gml.preflight.memory import estimate

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def trainer(phantom_data, tmp_path, monkeypatch):
    """Stock nnU-Net, initialised; call it with a kind of data and a configuration."""

    def build(kind: str, configuration: str) -> nnUNetTrainer:
        data = phantom_data(kind)
        use_folders(data, monkeypatch, results=tmp_path)
        built = build_trainer(nnUNetTrainer, data, configuration=configuration)
        built.initialize()
        return built

    return build


def batch(trainer) -> dict:
    """What nnU-Net's loader gives."""
    patch, manager = trainer.configuration_manager.patch_size, trainer.label_manager
    channels = len(manager.foreground_regions) + 1 if manager.has_regions else 1
    shape, targets = list(patch), []
    for stride in trainer.configuration_manager.pool_op_kernel_sizes[:-1]:
        shape = [edge // step for edge, step in zip(shape, stride, strict=True)]
        targets.append(torch.zeros((trainer.batch_size, channels, *shape)))
    return {"data": torch.zeros((trainer.batch_size, 1, *patch)), "target": targets}


def measured(*networks: torch.nn.Module, step: Callable[[], object]) -> int:
    """Peak bytes of two steps on a CPU: every allocation that torch's profiler saw, and the weights."""
    weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return weights + int(sizes.cumsum(0).max())


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_even_a_tiny_networks_step_is_estimated_well(trainer, phantom_data, kind):
    """nnU-Net's own train_step; where all is small, what kernels need beside tensors weighs most."""
    stock = trainer(kind, "3d_small")
    data = batch(stock)

    found = measured(stock.network, step=lambda: stock.train_step(copy.copy(data)))

    assert estimate(plan_of(phantom_data(kind)), on_gpu=False).stock == pytest.approx(found, rel=0.3)


@pytest.mark.slow
def test_the_estimate_is_what_nnunets_standard_network_takes(trainer, phantom_data):
    """Its 3d_fullres plan, 22 million parameters: within a hundredth."""
    stock = trainer("labels", "3d_fullres")
    data = batch(stock)

    found = measured(stock.network, step=lambda: stock.train_step(copy.copy(data)))

    need = estimate(plan_of(phantom_data(), "3d_fullres"), on_gpu=False)
    assert need.stock == pytest.approx(found, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["frozen", "low_memory", "mutual"])
def test_the_estimate_is_what_a_step_with_a_peer_takes(trainer, phantom_data, way):
    """The real step of two of nnU-Net's standard networks: within a tenth."""
    stock = trainer("labels", "3d_fullres")
    data = batch(stock)
    ours = Learner(stock.network, stock.optimizer)
    stock.network = copy.deepcopy(stock.network)
    theirs = Learner(stock.network, stock.configure_optimizers()[0])
    everyone = torch.ones(5)
    peer = Peer(theirs, everyone, everyone, everyone.bool(), ~everyone.bool(), 0.5, learns=way != "frozen")
    method = Method(stock.loss, ClassWiseDistillation(), in_two_passes=way == "low_memory")

    found = measured(
        ours.network,
        theirs.network,
        step=lambda: train_with_peer(data["data"], data["target"], ours, peer, method),
    )

    need = estimate(plan_of(phantom_data(), "3d_fullres"), on_gpu=False)
    assert getattr(need, way) == pytest.approx(found, rel=0.1)


def test_the_ways_of_having_a_peer_need_more_and_more(phantom_data):
    """A teacher costs less than two learners, one after the other less than both at once."""
    need = estimate(plan_of(phantom_data()))

    assert need.stock < need.frozen < need.low_memory < need.mutual
