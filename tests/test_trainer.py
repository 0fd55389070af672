"""GossipTrainer inside nnU-Net's real training loop, on a tiny phantom that nnU-Net preprocessed."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_kit import (
    CONFIGURATION,
    WaitingTrainer,
    build_trainer,
    seed_everything,
    sites_for,
    stop_workers,
    use_folders,
)
from trainer_kit import StockTrainer, a_little_further, ledger, log_of, rounds, same_weights

from nnunet_gml import gate, learning, trust, weights
from nnunet_gml.explanation import read_rounds
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.mutual import PeerTooLargeError
from nnunet_gml.visit import fresh
from peer_sync.site import SITE_VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Mutual(WaitingTrainer):
    pass


class Frozen(WaitingTrainer):
    peer_learns = False


class MutualWithoutWeight(WaitingTrainer):
    distillation_weight = 0.0


class FrozenWithoutWeight(WaitingTrainer):
    distillation_weight = 0.0
    peer_learns = False


@pytest.mark.parametrize("cls", [MutualWithoutWeight, FrozenWithoutWeight])
def test_weight_zero_with_a_peer_is_stock_bit_for_bit(run, cls):
    """λ = 0: two epochs of steps with a peer's network beside ours leave stock nnU-Net's weights."""
    stock, ours = run(StockTrainer), run(cls, peer=a_little_further)

    assert rounds(ours)[0]["used"] and "distillation 0.0000 nats" in log_of(ours)
    assert same_weights(stock, ours)


@pytest.mark.parametrize("cls", [Mutual, Frozen])
@pytest.mark.parametrize("kind", ["labels", "ignore", "regions"])
def test_a_round_with_a_peer_changes_what_is_learnt(run, cls, kind):
    """Softmax, ignore label and regions: offered, collected, trusted, learnt with, logged; all finite."""
    alone, ours = run(StockTrainer, kind), run(cls, kind, peer=a_little_further)

    round_, _left = rounds(ours)
    assert round_["peer"] == "south" and round_["used"] and round_["classes"] == list(ours.classes)
    told = [(line["event"], line["verdict"]) for line in ledger(ours)]
    assert told == [("offer", "offered"), ("collect", "accepted"), ("meet", None)]
    assert 0 < ledger(ours)[-1]["trust"] <= 1
    assert float(log_of(ours).split("distillation ")[1].split()[0]) > 0
    assert not same_weights(alone, ours)
    assert all(torch.isfinite(t).all() for t in weights.named_tensors(ours.network).values())


def test_a_peer_without_trust_is_not_used(run, monkeypatch):
    """Trusted in no class: the log says why, the weights are stock's."""

    def distrust(trainer):
        monkeypatch.setattr(trust, "LEAST_DICE", 2.0)

    stock, ours = run(StockTrainer), run(Mutual, peer=lambda n: (a_little_further(n), distrust(n)))

    assert not rounds(ours)[0]["used"]
    assert "trusted in no class, so it is not used in this round" in log_of(ours)
    assert same_weights(stock, ours)


def poison_nan(network):
    weights.named_tensors(network)["encoder.stages.0.0.convs.0.conv.weight"].flatten()[0] = torch.nan


def poison_scale(network):
    weights.named_tensors(network)["encoder.stages.0.0.convs.0.conv.weight"].mul_(100)


def test_poisoned_weights_go_to_quarantine_and_training_goes_on(run):
    """Conv weights x100 (invisible to Dice under InstanceNorm): rule, peer, round, bounds in the log."""
    stock, ours = run(StockTrainer), run(Mutual, peer=poison_scale)

    assert same_weights(stock, ours)
    assert ledger(ours)[-1]["verdict"] == "refused" and ledger(ours)[-1]["rule"] == "norm"
    assert list((ours.exchange.site.folder / "quarantine").rglob("*.safetensors"))
    line = next(x for x in log_of(ours).splitlines() if "refused" in x)
    for word in ("round 1", "site south", "rule norm", "is 100", "within 0.2 and 5", "training goes on"):
        assert word in line


def test_a_nan_in_a_peers_file_goes_to_quarantine(run, monkeypatch):
    """A sender without our checks; the receiver has them."""
    finite = weights.all_finite
    monkeypatch.setattr(weights, "all_finite", lambda tensors: True)
    receive = weights.read

    def with_checks(*arguments):
        monkeypatch.setattr(weights, "all_finite", finite)
        return receive(*arguments)

    monkeypatch.setattr(weights, "read", with_checks)

    stock, ours = run(StockTrainer), run(Mutual, peer=poison_nan)

    assert ledger(ours)[-1]["verdict"] == "refused" and ledger(ours)[-1]["rule"] == "finite"
    assert same_weights(stock, ours)


@pytest.mark.parametrize(
    ("merge", "margin", "share"), [("lean", 2.0, 0.5), ("best", -2.0, 1.0), ("none", -2.0, 0.0)]
)
def test_the_list_of_rounds_says_what_we_are_after_a_merge(run, monkeypatch, merge, margin, share):
    """Dice of the weights with which the training goes on, and all that `nnunet-gml explain` reads."""
    monkeypatch.setattr("nnunet_gml.merging.MARGIN", margin)

    class Judged(Mutual):
        mutual_epochs = 1

        def let_peer_go(self, kind):
            if self.visit is not None:
                super().let_peer_go(kind)
                self.goes_on_with = self.score(self.network)

    Judged.merge = merge
    ours = run(Judged, peer=a_little_further)

    (found,) = read_rounds(Path(ours.output_folder))
    assert (found.peer, found.merged, found.weight) == ("south", share, pytest.approx(0.5 / 3))
    for ours_now, said in zip(ours.goes_on_with.dice.tolist(), found.dice_merged, strict=True):
        assert said == pytest.approx(ours_now, abs=1e-4, nan_ok=True)
    assert len(found.trust) == len(found.mask_share) == 5 and max(found.mask_share) > 0


def test_a_full_disk_at_a_rounds_end_stops_nobody(run, monkeypatch):
    """Nothing is offered, the log says why, training goes on."""

    def full(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    stock = run(StockTrainer)
    monkeypatch.setattr(weights, "write", full)

    ours = run(type("DiskFull", (GossipTrainer,), {"warmup_epochs": 1, "epochs_per_round": 1}))

    assert same_weights(stock, ours)
    assert log_of(ours).count("No space left on device; training goes on without a peer") == 2


def test_a_gpu_too_small_for_two_networks_goes_on_with_one(run, monkeypatch):
    """Out of memory because a peer came: tried in two passes, then the step is stock's; the log says both."""

    def too_large(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("nnunet_gml.learning.train_with_peer", too_large)

    stock, ours = run(StockTrainer), run(Mutual, peer=a_little_further)

    assert rounds(ours)[0]["used"]
    assert log_of(ours).count("too small for two networks at once: from now on") == 1
    assert log_of(ours).count("too small for two networks: this step") == 1
    assert [line["event"] for line in rounds(ours)] == ["met", "left"]
    assert rounds(ours)[1]["dice_ours"] == [None] * 5
    assert same_weights(stock, ours)


def test_a_peer_that_never_offers_stops_nobody(run):
    """Nothing in the peer's outbox: plain nnU-Net goes on, and the log says what it waits for."""
    stock = run(StockTrainer)
    ours = run(type("NobodyThere", (GossipTrainer,), {"warmup_epochs": 1}))

    assert same_weights(stock, ours)
    assert rounds(ours) == []
    assert "sending for those of site south" in log_of(ours)


def test_checkpoint_is_stock_with_one_key_more(run):
    """Named nnUNetTrainer, loadable by nnU-Net, continuing with the epoch counted."""
    ours = run(Mutual, peer=a_little_further)
    path = Path(ours.output_folder) / "checkpoint_final.pth"
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    stock = build_trainer(StockTrainer, Path(ours.preprocessed_dataset_folder_base).parents[1])

    stock.load_checkpoint(str(path))

    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert set(checkpoint["nnunet_gml"]) == {
        "version",
        "trainer",
        "federation",
        "round",
        "hidden",
        "trust",
        "gate",
    }
    assert stock.current_epoch == 3
    assert same_weights(stock, ours)
    assert not list(path.parent.glob("*.part"))


def test_predicts_where_the_plugin_cannot_be_imported(run, phantom_data):
    """nnUNetv2_predict with nnUNet_extTrainer unset and our packages blocked writes a segmentation."""
    ours = run(Mutual, peer=a_little_further)
    raw = next((phantom_data() / "nnUNet_raw").glob("Dataset*"))
    out = Path(ours.output_folder) / "predicted"
    code = (
        "import os, sys; assert 'nnUNet_extTrainer' not in os.environ\n"
        "for name in ('nnunet_gml', 'peer_sync', 'nnunet_gml_trainers'): sys.modules[name] = None\n"
        "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as predict\n"
        f"sys.argv = ['nnUNetv2_predict', '-i', {str(raw / 'imagesTs')!r}, '-o', {str(out)!r}, '-d', '901', "
        f"'-c', '{CONFIGURATION}', '-f', '0', '-tr', 'Mutual', '-device', 'cpu', '--disable_tta', "
        "'-npp', '0', '-nps', '0', '--disable_progress_bar']\n"
        "predict()"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)

    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in out.glob("*.nii.gz")] == ["north_004.nii.gz"]


def test_without_a_site_training_stops_at_once_and_says_what_to_do(
    phantom_data, tmp_path, monkeypatch, capsys
):
    """Exit code 2, and the name of the variable."""
    use_folders(phantom_data(), monkeypatch, results=tmp_path)
    monkeypatch.delenv(SITE_VARIABLE, raising=False)

    with pytest.raises(SystemExit) as stopped:
        build_trainer(GossipTrainer, phantom_data()).run_training()

    said = capsys.readouterr().out
    assert stopped.value.code == 2
    assert "error:" in said and "hint:" in said and SITE_VARIABLE in said


def test_other_plans_stop_at_once_and_name_both_digests(phantom_data, tmp_path, monkeypatch, capsys):
    """A site that planned for itself is told before the first epoch."""
    use_folders(phantom_data(), monkeypatch, results=tmp_path)
    sites = sites_for(tmp_path, phantom_data())
    monkeypatch.setenv(SITE_VARIABLE, str(sites["north"].path))
    trainer = build_trainer(GossipTrainer, phantom_data())
    trainer.configuration_manager.configuration["spacing"] = [1.0, 1.0, 1.0]
    trainer.plans_manager.plans["configurations"][CONFIGURATION]["patch_size"] = [16, 16, 16]

    with pytest.raises(SystemExit) as stopped:
        trainer.run_training()

    said = capsys.readouterr().out
    assert stopped.value.code == 2
    assert "plans digest of configuration 3d_small" in said and sites["north"].federation.plans_digest in said


@pytest.mark.parametrize("kind", ["labels", "ignore", "regions"])
def test_the_gate_scores_equal_networks_equally(phantom_data, tmp_path, monkeypatch, kind):
    """nnU-Net's validation step writes into the target; the second network must see what the first saw."""
    use_folders(phantom_data(kind), monkeypatch, results=tmp_path)
    stock = build_trainer(StockTrainer, phantom_data(kind))
    stock.on_train_start()
    batches = gate.fixed_batches(stock.dataloader_val, 2, "seed")

    one, other = (gate.score(stock.network, batches, stock.validation_step) for _ in range(2))

    assert torch.equal(one.dice.nan_to_num(), other.dice.nan_to_num())
    assert torch.equal(one.is_present, other.is_present)


@pytest.mark.parametrize("processes", ["0", "1"])
def test_the_gate_draws_nothing_from_training(phantom_data, tmp_path, monkeypatch, processes):
    """The fixed patches are the same for the same seed, and all generators are where they were."""
    use_folders(phantom_data(), monkeypatch, results=tmp_path)
    monkeypatch.setenv("nnUNet_n_proc_DA", processes)
    stock = build_trainer(StockTrainer, phantom_data())
    stock.on_train_start()
    seed_everything(3)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    seed_everything(3)

    one, other = (gate.fixed_batches(stock.dataloader_val, 2, 7, "north") for _ in range(2))

    assert all(torch.equal(a["data"], b["data"]) for a, b in zip(one, other, strict=True))
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected
    stop_workers(stock)


def test_continues_where_it_stopped(run, phantom_data):
    """--c: the epoch, the weights and the round that follows, from a checkpoint that says nnUNetTrainer."""
    ours = run(Mutual, peer=a_little_further)
    again = build_trainer(Mutual, phantom_data(), epochs=5)

    again.load_checkpoint(str(Path(ours.output_folder) / "checkpoint_final.pth"))

    assert again.current_epoch == 3
    assert same_weights(ours, again)


def test_without_checkpointing_no_checkpoint_is_written(run):
    """--disable_checkpointing, even with the leftovers of a killed run beside it."""

    class Unsaved(GossipTrainer):
        def initialize(self) -> None:
            super().initialize()
            self.disable_checkpointing = True

    ours = run(Unsaved)

    assert not list(Path(ours.output_folder).glob("*.pth*"))


def leaves_after(cls, **attributes):
    """A trainer whose peer stays for one epoch, with other settings."""
    return type(cls.__name__, (cls,), {"mutual_epochs": 1, **attributes})


def test_a_better_peers_weights_are_taken_over_when_it_leaves(run, monkeypatch):
    """merge = "best", and any peer is better: the share is 1 in the list of rounds."""
    monkeypatch.setattr("nnunet_gml.merging.MARGIN", -2.0)

    ours = run(leaves_after(Mutual, merge="best"), peer=a_little_further)

    assert rounds(ours)[1]["event"] == "left" and rounds(ours)[1]["merged"] == 1.0
    assert "with 100% of its weights" in log_of(ours)


@pytest.mark.parametrize(
    "attributes",
    [
        {"contrast_weight": 0.5},
        {"temperature": 2.0},
        {"uses_trust": False},
        {"mask": "union"},
        {"mask": "gt"},
        {"ramp_rounds": 1},
    ],
)
def test_every_setting_of_the_method_changes_what_is_learnt(run, attributes):
    """Contrast, temperature, full trust, another mask, λ at once: each its own weights, all finite."""
    plain = run(Mutual, peer=a_little_further)
    other = run(type("Other", (Mutual,), attributes), peer=a_little_further)

    assert not same_weights(plain, other)
    assert all(torch.isfinite(t).all() for t in weights.named_tensors(other.network).values())


def test_two_passes_learn_what_one_pass_learns(run):
    """low_memory: the same weights but for rounding, with both networks never in memory with their graphs."""
    one, two = (
        run(Mutual, peer=a_little_further),
        run(type("LowMemory", (Mutual,), {"low_memory": True}), peer=a_little_further),
    )

    pairs = [weights.named_tensors(trainer.network) for trainer in (one, two)]
    assert all(torch.allclose(pairs[0][name], pairs[1][name], atol=1e-4) for name in pairs[0])
    assert rounds(two)[0]["used"]


def test_a_peers_weights_are_in_no_checkpoint_but_the_latest(run):
    """While it is here the latest has them, for --c; what is handed on has not."""
    seen = {}

    class Watched(Mutual):
        def save_checkpoint(self, filename: str) -> None:
            super().save_checkpoint(filename)
            content = torch.load(filename, map_location="cpu", weights_only=False)
            seen.setdefault(Path(filename).name, []).append("visit" in content["nnunet_gml"])

    run(Watched, peer=a_little_further)

    assert any(seen["checkpoint_latest.pth"])
    assert not any(seen["checkpoint_best.pth"] + seen["checkpoint_final.pth"])


def test_our_step_is_not_taken_twice_when_only_the_peers_was_too_large(run, monkeypatch):
    """Memory runs out behind our step, once: its report counts, and training has as many steps as ever."""
    steps, train = [], learning.train_with_peer

    def second_half_fails(*arguments: object, **options: object):
        report = train(*arguments, **options)
        steps.append(report)
        if len(steps) == 1:
            raise PeerTooLargeError(report)
        return report

    plain = run(Mutual, peer=a_little_further)
    monkeypatch.setattr(learning, "train_with_peer", second_half_fails)
    ours = run(type("Failing", (Mutual,), {}), peer=a_little_further)

    assert len(steps) == 4
    assert all(
        torch.allclose(a, b, atol=1e-3)
        for a, b in zip(plain.network.parameters(), ours.network.parameters(), strict=True)
    )


def test_a_scaler_that_was_stopped_half_way_can_go_on():
    """unscale_ may be called once a step; after one that was broken off it must be possible again."""
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(network(torch.ones(1, 1)).sum()).backward()
    scaler.unscale_(optimizer)

    again = fresh(scaler, torch.device("cpu"))

    assert again.get_scale() == 64.0
    again.scale(network(torch.ones(1, 1)).sum()).backward()
    again.unscale_(optimizer)
    again.step(optimizer)
