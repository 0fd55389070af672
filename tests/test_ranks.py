"""Several processes of one training: rank 0 speaks, all agree. Two real ones, over gloo on this machine."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_gml.distillation import ClassWiseDistillation
from nnunet_gml.learners import Learner, Method, Peer
from nnunet_gml.mutual import train_with_peer
from nnunet_gml.ranks import Ranks

SECONDS = 60
LIKE = {"w": torch.zeros(2, 3), "n": torch.tensor(0), "empty": torch.zeros(0)}
SHARED = {
    "w": torch.arange(6.0, dtype=torch.float64).reshape(3, 2).T,
    "n": torch.tensor(9),
    "empty": torch.zeros(0),
}
STEPS = 4
BAD_STEP = 1
BAD_RANK = 1


def small_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 3, 1))


def learner(seed: int) -> Learner:
    """In a distributed training as nnU-Net wraps it, else as it is."""
    network = small_network(seed)
    network = DistributedDataParallel(network) if distributed.is_initialized() else network
    return Learner(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.99, nesterov=True))


def supervise(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target[:, 0].long())


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * rank + step)
    shape = (2, 1, 4, 4, 4)
    return torch.randn(shape, generator=generator), torch.randint(0, 3, shape, generator=generator)


class Spoilt:
    """A supervision that is not finite for the peer, at one rank, in one step."""

    def __init__(self, rank: int) -> None:
        self.rank, self.step, self.calls = rank, 0, 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = supervise(output, target)
        is_peers = self.calls % 2 == 0
        return loss * torch.nan if is_peers and (self.rank, self.step) == (BAD_RANK, BAD_STEP) else loss


def train(rank: int, in_two_passes: bool) -> dict[str, list]:
    """Some steps of two networks; sums of both networks' weights, and the pull, after each."""
    ours, theirs = learner(0), learner(1)
    all_yes, none = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    peer = Peer(theirs, torch.ones(2), torch.ones(2), all_yes, none, weight=0.5, learns=True)
    spoilt = Spoilt(rank)
    distil = ClassWiseDistillation(smoothing=1, minimum_voxels=1)
    method = Method(spoilt, distil, in_two_passes=in_two_passes)
    said: dict[str, list] = {"ours": [], "peers": [], "pulls": []}
    for step in range(STEPS):
        spoilt.step, spoilt.calls = step, 0
        report = train_with_peer(*batch(rank, step), ours, peer, method, agree=Ranks().all_agree)
        said["ours"].append(flat(ours.network))
        said["peers"].append(flat(theirs.network))
        said["pulls"].append(float(report.distillation))
    return said


def flat(network: nn.Module) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).tolist()


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=SECONDS),
    )
    ranks = Ranks()
    tensors = ranks.share_tensors(SHARED if rank == 0 else None, LIKE)
    said = {
        "is_first": ranks.is_first,
        "value": ranks.share({"peer": "north", "rank": rank}),
        "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
        "types": {name: str(tensor.dtype) for name, tensor in tensors.items()},
        "agree": [ranks.all_agree(flag) for flag in (True, rank == 0, rank == 1, False)],
        "training": [train(rank, in_two_passes) for in_two_passes in (False, True)],
    }
    (folder / f"{rank}.json").write_text(json.dumps(said))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[dict]:
    """What two processes have written down, rank by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=2 * SECONDS)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_one_of_two_is_first(said):
    """Rank 0 writes files and meets peers."""
    assert [rank["is_first"] for rank in said] == [True, False]


def test_rank_0s_value_is_everybodys(said):
    """Facts about a peer, as they are."""
    assert [rank["value"] for rank in said] == [{"peer": "north", "rank": 0}] * 2


def test_rank_0s_tensors_are_everybodys(said):
    """Whatever their layout in memory, in the types of each rank's own tensors."""
    for rank in said:
        assert rank["tensors"] == {"w": [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]], "n": 9, "empty": []}
        assert rank["types"] == {"w": "torch.float32", "n": "torch.int64", "empty": "torch.float32"}


def test_all_agree_only_where_everybody_does(said):
    """Yes and yes; then a no at rank 1, at rank 0, at both."""
    assert [rank["agree"] for rank in said] == [[True, False, False, False]] * 2


@pytest.mark.parametrize("passes", [1, 2])
def test_networks_of_two_ranks_stay_in_step(said, passes):
    """Each rank has its own data; both networks are the same at both after every step, the bad one too."""
    one, other = (rank["training"][passes - 1] for rank in said)

    assert one["ours"] == other["ours"]
    assert one["peers"] == other["peers"]
    assert one["pulls"] != other["pulls"]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_peer_that_is_not_finite_at_one_rank_is_left_out_at_all(said, passes):
    """In the bad step no rank lets the peer pull or learn, ours goes on; afterwards all go on as before."""
    for rank in said:
        training = rank["training"][passes - 1]
        assert [pull > 0 for pull in training["pulls"]] == [step != BAD_STEP for step in range(STEPS)]
        moves = [a != b for a, b in zip(training["peers"], training["peers"][1:], strict=False)]
        assert moves == [step != BAD_STEP for step in range(1, STEPS)]
        assert all(a != b for a, b in zip(training["ours"], training["ours"][1:], strict=False))


def test_the_bad_step_is_the_mean_of_both_ranks_supervision(said):
    """One process with both ranks' batches in the first two steps gets the same weights."""
    network = small_network(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.99, nesterov=True)
    peer_network = small_network(1)
    distil = ClassWiseDistillation(smoothing=1, minimum_voxels=1)
    yes = torch.ones(2, dtype=torch.bool)
    for step in range(BAD_STEP + 1):
        losses = []
        for rank in (0, 1):
            data, target = batch(rank, step)
            output = network(data)
            pull = distil(output, peer_network(data).detach(), target, torch.ones(2), yes).loss
            losses.append(supervise(output, target) + (0.0 if step == BAD_STEP else 0.5 * pull))
        optimizer.zero_grad(set_to_none=True)
        (sum(losses) / 2).backward()
        optimizer.step()

    expected = torch.tensor(flat(network))
    assert torch.allclose(torch.tensor(said[0]["training"][0]["ours"][BAD_STEP]), expected, atol=1e-6)


def test_one_process_answers_itself():
    """Without torch.distributed nothing is copied or sent."""
    ranks, value, tensors = Ranks(), object(), {"w": torch.ones(2)}

    assert ranks.is_first
    assert ranks.share(value) is value
    assert ranks.share_tensors(tensors, LIKE)["w"] is tensors["w"]
    assert ranks.all_agree(True) and not ranks.all_agree(False)


def test_rank_0_must_have_what_it_shares():
    """Told at once, before other ranks wait for it."""
    with pytest.raises(ValueError, match="rank 0 must have"):
        Ranks().share_tensors(None, copy.copy(LIKE))


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
