"""Settings of a trainer variant: what they change, and that a slip of the pen ends the training at once."""

from __future__ import annotations

import pytest
import torch
from nnunet_kit import WaitingTrainer, build_trainer, sites_for, use_folders, wait_for_arrival
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from trainer_kit import a_little_further, copy_of, rounds, same_weights

from nnunet_gml import merging, weights
from nnunet_gml.averaging import FedAvgTrainer, GossipAverageTrainer
from nnunet_gml.exchange import Arrival
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.merging import MergeKind
from nnunet_gml.settings import check_choices, choices_of
from peer_sync.errors import ConfigError
from peer_sync.site import SITE_VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize(
    ("cls", "name", "value", "nearest"),
    [
        (GossipTrainer, "merge", "selct", "'select'"),
        (GossipTrainer, "mask", "everywhere", "'gt' or 'union' or 'agree'"),
        (GossipTrainer, "merge_exclude", "norm", "'' or 'normalization'"),
        (GossipAverageTrainer, "merge_exclude", "norm", "'' or 'normalization'"),
    ],
)
def test_a_word_that_a_setting_does_not_have_stops_before_anything_is_trained(
    phantom_data, tmp_path, monkeypatch, capsys, cls, name, value, nearest
):
    """Exit code 2, the setting, what it is, what it may be; not even the network is built."""
    use_folders(phantom_data(), monkeypatch, results=tmp_path)
    sites = sites_for(tmp_path, phantom_data())
    monkeypatch.setenv(SITE_VARIABLE, str(sites["north"].path))
    trainer = build_trainer(type("Misspelt", (cls,), {name: value}), phantom_data())

    with pytest.raises(SystemExit) as stopped:
        trainer.run_training()

    said = capsys.readouterr().out
    assert stopped.value.code == 2
    assert f"error: {name} of Misspelt is {value!r}" in said
    assert "hint: it must be" in said and nearest in said
    assert not trainer.was_initialized


@pytest.mark.parametrize("cls", [GossipTrainer, GossipAverageTrainer, FedAvgTrainer])
def test_every_word_that_is_listed_is_taken(cls):
    """Each choice of each setting, and the defaults."""
    chosen = [{name: word} for name, words in choices_of(cls).items() for word in words]

    assert {"merge_exclude": "normalization"} in chosen
    for settings in ({}, *chosen):
        check_choices(object.__new__(type("Variant", (cls,), settings)))


def test_a_trainers_own_value_counts_too():
    """Set in its constructor, on the object instead of the class."""
    trainer = object.__new__(GossipTrainer)
    trainer.mask = "everywhere"

    with pytest.raises(ConfigError, match="mask of GossipTrainer is 'everywhere'"):
        check_choices(trainer)


def test_a_variant_that_annotates_otherwise_is_still_checked():
    """``merge: str`` in a user's own class does not make every word a good one."""
    variant = type("Variant", (GossipTrainer,), {"merge": "selct", "__annotations__": {"merge": str}})

    with pytest.raises(ConfigError, match="merge of Variant"):
        check_choices(object.__new__(variant))


class HalfOfThePeer(WaitingTrainer):
    """Takes half of the peer's weights when it leaves, and remembers what there was."""

    mutual_epochs = 1
    merge = "lean"
    merge_exclude = "normalization"

    def let_peer_go(self, merge: MergeKind) -> None:
        if self.visit is not None:
            self.ours, self.peers = copy_of(self.network), copy_of(self.peer_network)
            super().let_peer_go(merge)
            self.after = copy_of(self.network)


class HalfOfEach(GossipAverageTrainer):
    """The same where weights are averaged as soon as they come."""

    warmup_epochs = 1
    merge_exclude = "normalization"

    def receive(self) -> Arrival | None:
        if self.current_epoch != self.warmup_epochs:
            return None
        wait_for_arrival(self.exchange)
        self.ours = copy_of(self.network)
        arrival = super().receive()
        self.peers = arrival.tensors
        return arrival

    def save_latest(self) -> None:
        self.after = copy_of(self.network)
        super().save_latest()


@pytest.mark.parametrize("cls", [HalfOfThePeer, HalfOfEach])
def test_normalisation_stays_ours_where_a_mean_is_taken(run, monkeypatch, cls):
    """merge_exclude = "normalization": those tensors bit for bit, of every other one half is the peer's."""
    monkeypatch.setattr(merging, "MARGIN", 2.0)  # "lean" takes half, whatever the Dice

    trainer = run(cls, peer=every_tensor_further)

    assert rounds(trainer)[-1]["merged"] == 0.5
    norms = {name for name in trainer.ours if ".norm." in name}
    assert norms
    for name, tensor in trainer.after.items():
        ours, peers = trainer.ours[name], trainer.peers[name].float()
        assert not torch.equal(ours, peers), name
        expected = ours if name in norms else (ours + peers) / 2
        assert torch.equal(tensor, ours) == (name in norms), name
        assert torch.allclose(tensor, expected, atol=1e-6), name


def every_tensor_further(network: torch.nn.Module) -> None:
    """What a peer may send: biases that are 0 at the beginning are moved, too."""
    a_little_further(network)
    for tensor in weights.named_tensors(network).values():
        tensor.add_(0.01)


class CoarserCounts(nnUNetTrainer):
    """nnU-Net gives the coarsest output no weight, and the phantom's network has two outputs; here it has."""

    def _build_loss(self):
        loss = super()._build_loss()
        loss.weight_factors = (0.75, 0.25)
        return loss


class OneHead(WaitingTrainer, CoarserCounts):
    pass


class AllHeads(OneHead):
    distils_all_heads = True


def test_all_heads_are_distilled_with_nnunets_weights(run):
    """distils_all_heads: those of nnU-Net's deep supervision; the coarser output changes what is learnt."""
    one, both = (run(cls, peer=a_little_further) for cls in (OneHead, AllHeads))

    assert one.method.head_weights == (1.0,)
    assert both.method.head_weights == tuple(both.loss.weight_factors) == (0.75, 0.25)
    assert rounds(both)[0]["used"] and not same_weights(one, both)


def test_a_head_without_weight_in_nnunets_loss_has_none_in_the_distillation(run):
    """The phantom's coarser output: all heads are then the full resolution, bit for bit."""
    one, all_ = (
        run(type(name, (WaitingTrainer,), {"distils_all_heads": every}), peer=a_little_further)
        for name, every in (("Finest", False), ("Every", True))
    )

    assert all_.method.head_weights == (1.0, 0.0)
    assert same_weights(one, all_)


@pytest.mark.parametrize(("ramp_rounds", "weight"), [(3, 0.2), (2, 0.3), (1, 0.6), (0, 0.6)])
def test_lambda_grows_over_the_ramp(run, ramp_rounds, weight):
    """In the first of three rounds a third of it, without a ramp all of it; the list of rounds has it."""
    settings = {"distillation_weight": 0.6, "ramp_rounds": ramp_rounds}

    ours = run(type("Ramp", (WaitingTrainer,), settings), peer=a_little_further, epochs=2)

    assert rounds(ours)[0]["weight"] == pytest.approx(weight)
