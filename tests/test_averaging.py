"""The baselines inside nnU-Net's real training loop: what an average takes from whom, who is waited for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from nnunet_kit import build_trainer, wait_for_arrival
from nnunetv2.run.run_training import maybe_load_checkpoint
from trainer_kit import StockTrainer, a_little_further, copy_of, ledger, log_of, rounds, same_weights

from nnunet_gml import weights
from nnunet_gml.averaging import FedAvgTrainer, FedProxTrainer, GossipAverageTrainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def momentum_of(trainer) -> list[torch.Tensor]:
    return [state["momentum_buffer"].clone() for state in trainer.optimizer.state.values()]


def are_scaled(before: list[torch.Tensor], after: list[torch.Tensor], factor: float) -> bool:
    """Whether all is multiplied by the factor, a power of two, and not all is 0."""
    assert len(before) == len(after) and any(tensor.any() for tensor in before)
    return all(torch.equal(new, factor * old) for old, new in zip(before, after, strict=True))


class HalfAndHalf(GossipAverageTrainer):
    warmup_epochs = 1

    def on_epoch_start(self) -> None:
        if self.current_epoch == 1:
            wait_for_arrival(self.exchange)
            self.before, self.momentum_before = copy_of(self.network), momentum_of(self)
        super().on_epoch_start()
        if self.current_epoch == 1:
            self.after, self.momentum_after = copy_of(self.network), momentum_of(self)


class Together(FedAvgTrainer):
    warmup_epochs = 1
    cases = 3

    def begin_round(self, round_: int) -> None:
        self.before, self.momentum_before = copy_of(self.network), momentum_of(self)
        super().begin_round(round_)
        self.after, self.momentum_after = copy_of(self.network), momentum_of(self)

    def training_cases(self) -> int:
        return self.cases


class OneOfFour(Together):
    cases = 1


class Held(FedProxTrainer):
    warmup_epochs = 1
    proximal_weight = 50.0


class PeerWeights:
    """A peer's change of the initial weights that remembers them as they travel, in float16."""

    def __call__(self, network: torch.nn.Module) -> None:
        a_little_further(network)
        self.tensors = {name: t.half().float() for name, t in weights.named_tensors(network).items()}


def test_gossip_averaging_takes_half_of_the_peer(run):
    """Every tensor is the mean of ours and the peer's; half of the momentum is left; no second network."""
    peer = PeerWeights()
    ours = run(HalfAndHalf, peer=peer)

    for name, tensor in ours.after.items():
        assert torch.allclose(tensor, (ours.before[name] + peer.tensors[name]) / 2, atol=1e-6)
    assert [(line["event"], line["peer"], line["merged"]) for line in rounds(ours)] == [
        ("averaged", "south", 0.5)
    ]
    assert are_scaled(ours.momentum_before, ours.momentum_after, 0.5)
    assert not hasattr(ours, "peer_network")


@pytest.mark.parametrize(("cls", "ours_share"), [(Together, 0.5), (OneOfFour, 0.25)])
def test_fedavg_weighs_sites_by_their_cases(run, cls, ours_share):
    """South has 3 cases; with 3 of ours 1/2 each, with 1 of ours 1/4 to 3/4. So much momentum is left."""
    peer = PeerWeights()
    ours = run(cls, peer=peer, epochs=2)

    for name, tensor in ours.after.items():
        travelled = ours.before[name].half().float()
        expected = ours_share * travelled + (1 - ours_share) * peer.tensors[name]
        assert torch.allclose(tensor, expected, atol=1e-6), name
    assert are_scaled(ours.momentum_before, ours.momentum_after, ours_share)
    assert f"mean of 2 sites: north {ours_share:.2f}, south {1 - ours_share:.2f}" in log_of(ours)


def test_a_site_that_withholds_its_cases_makes_all_count_alike(run):
    """share_cases = false here: half and half, and the log says why."""
    ours = run(OneOfFour, peer=a_little_further, epochs=2, site_lines="share_cases = false\n")

    assert "all count alike" in log_of(ours)
    assert "mean of 2 sites: north 0.50, south 0.50" in log_of(ours)


def test_fedavg_waits_no_longer_than_it_may_and_says_for_whom(run):
    """Nobody offers: after wait_seconds training goes on as stock nnU-Net would."""
    stock = run(StockTrainer, epochs=2)
    began = time.monotonic()
    ours = run(Together, epochs=2, site_lines="wait_seconds = 1\n")

    assert time.monotonic() - began < 200
    assert "in vain for south; going on without" in log_of(ours)
    assert same_weights(stock, ours)


def test_fedavg_does_not_take_an_earlier_rounds_weights(run):
    """South is still in round 1, we are in round 2: its offer is waited out, not averaged."""

    class SecondRound(Together):
        def _due_round(self) -> int:
            return 2

    ours = run(SecondRound, peer=a_little_further, epochs=2, site_lines="wait_seconds = 2\n")

    assert "in vain for south" in log_of(ours)
    assert [line["verdict"] for line in ledger(ours) if line["event"] == "collect"].count("accepted") == 0


def test_fedprox_holds_the_network_near_the_mean(run):
    """With a large mu the steps after the mean move the weights less than without it."""
    moved = {}
    for cls in (Held, type("Free", (Held,), {"proximal_weight": 0.0})):
        anchors: dict[str, torch.Tensor] = {}

        class Watched(cls):  # type: ignore[misc, valid-type]
            def begin_round(self, round_: int) -> None:
                super().begin_round(round_)
                anchors.update(copy_of(self.network))  # noqa: B023 - used within this turn of the loop

        Watched.__name__ = cls.__name__
        trainer = run(Watched, peer=a_little_further, epochs=3)
        now = weights.named_tensors(trainer.network)
        moved[cls.__name__] = sum(float((now[name] - anchors[name]).norm()) for name in now)

    assert moved["Held"] < 0.9 * moved["Free"]


def test_the_state_after_an_average_is_what_goes_on(run):
    """checkpoint_latest is written with the mean in it, its round counted: --c does not begin it again."""
    kept: dict = {}

    class Watched(Together):
        def save_latest(self) -> None:
            super().save_latest()
            path = Path(self.output_folder) / "checkpoint_latest.pth"
            kept.update(torch.load(path, map_location="cpu", weights_only=False))

    ours = run(Watched, peer=a_little_further, epochs=2)

    assert kept["nnunet_gml"]["round"] == 1 and kept["current_epoch"] == 1
    assert all(torch.equal(kept["network_weights"][name], tensor) for name, tensor in ours.after.items())


def test_fedprox_pulls_nowhere_in_the_warm_up(run):
    """Before the first round it trains as stock nnU-Net: there is no mean to be held near."""
    stock = run(StockTrainer, epochs=2)
    ours = run(type("WarmingUp", (Held,), {"warmup_epochs": 10}), epochs=2)

    assert same_weights(stock, ours)


def test_fedprox_is_held_near_the_last_mean_after_a_kill(run, phantom_data):
    """Rounds at other epochs than multiples of their length: no checkpoint is from between two means."""
    means: list[list[torch.Tensor]] = []

    class KilledInARound(Held):
        epochs_per_round = 4

        def begin_round(self, round_: int) -> None:
            super().begin_round(round_)
            means.append([parameter.detach().clone() for parameter in self.network.parameters()])

        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            if self.current_epoch == 4:
                self.exchange.stop()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(KilledInARound, peer=a_little_further, epochs=8)
    again = build_trainer(KilledInARound, phantom_data(), epochs=8)
    maybe_load_checkpoint(again, True, False)
    again.on_train_start()
    again.exchange.stop()

    (mean,) = means
    assert len(again.proximal._anchor) == len(mean)
    assert all(torch.equal(*pair) for pair in zip(again.proximal._anchor, mean, strict=True))


def test_a_refused_peer_is_not_waited_for(run, monkeypatch):
    """South's weights break a rule: it will not be asked again in this round, so nobody waits for it."""

    def poison(network: torch.nn.Module) -> None:
        weights.named_tensors(network)["encoder.stages.0.0.convs.0.conv.weight"].mul_(100)

    began = time.monotonic()
    ours = run(Together, peer=poison, epochs=2, site_lines="wait_seconds = 300\n")

    assert time.monotonic() - began < 200
    assert "refused by rule norm" in log_of(ours)
    assert "in vain for south; going on without" in log_of(ours)


def test_weights_too_large_for_the_payloads_type_are_averaged_as_they_travel(run):
    """Ours hold 70,000, which float16 cannot: they travel, and are averaged, in float32."""

    class Large(Together):
        def begin_round(self, round_: int) -> None:
            with torch.no_grad():
                weights.named_tensors(self.network)["decoder.seg_layers.0.bias"][0] = 70_000.0
            super().begin_round(round_)

    ours = run(Large, peer=a_little_further, epochs=2)

    assert all(torch.isfinite(tensor).all() for tensor in ours.after.values())


def test_what_comes_after_the_wait_is_dropped_and_may_come_again(run):
    """wait_seconds = 0: the ledger says failed, nothing is remembered as judged, training goes on alone."""

    class Impatient(Together):
        def on_epoch_start(self) -> None:
            if self.current_epoch == 1:
                wait_for_arrival(self.exchange)
            super().on_epoch_start()

    ours = run(Impatient, peer=a_little_further, epochs=2, site_lines="wait_seconds = 0\n")

    assert "weights of site south came too late for their round" in log_of(ours)
    (line,) = [line for line in ledger(ours) if line["event"] == "collect"]
    assert line["verdict"] == "failed" and "after the wait" in line["message"]
