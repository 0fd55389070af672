"""What becomes of the peer's weights: shares, averages, momentum."""

import copy
import math

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from hypothesis import given
from hypothesis import strategies as st
from network_kit import unet
from torch import nn

from nnunet_gml.merging import (
    is_better,
    mean_of,
    merge,
    mix,
    normalization_names,
    peer_share,
    scale_momentum,
)
from nnunet_gml.tensors import named_tensors
from nnunet_gml.trust import Scores

DICE = st.floats(0, 1)


def test_share_of_equal_networks_is_half():
    """sigmoid(0) = 1/2; a better peer gets no more, however much better it is."""
    assert peer_share(0.7, 0.7) == 0.5
    assert peer_share(1.0, 0.0) == 0.5


def test_share_of_a_peer_that_is_five_points_worse():
    """By hand: sigmoid(-0.05 / 0.05) = 1 / (1 + e) = 0.2689."""
    assert peer_share(0.65, 0.70) == pytest.approx(0.2689, abs=5e-5)


@given(DICE, DICE, DICE)
def test_share_grows_with_the_peers_dice_and_stays_within_half(one, other, ours):
    """A better peer never gets less."""
    low, high = sorted([one, other])

    assert 0 < peer_share(low, ours) <= peer_share(high, ours) <= 0.5


@pytest.mark.parametrize("pair", [(math.nan, 0.5), (0.5, math.nan), (math.nan, math.nan)])
def test_an_unknown_dice_changes_nothing(pair):
    """No validation voxels: the peer gets no share and does not replace us."""
    assert peer_share(*pair) == 0.0
    assert not is_better(*pair)


def test_better_means_better_by_a_margin():
    """0.006 is, 0.004 is noise."""
    assert is_better(0.706, 0.7)
    assert not is_better(0.704, 0.7)
    assert not is_better(0.6, 0.7)


@pytest.mark.parametrize("kind", [PlainConvUNet, ResidualEncoderUNet])
def test_every_tensor_of_an_instance_norm_is_named(kind):
    """All parameters that are no convolution's, each under its first name, though nnU-Net has aliases."""
    network = unet(kind)
    convolutions = (nn.Conv3d, nn.ConvTranspose3d)
    of_convolutions = {
        id(tensor) for m in network.modules() if isinstance(m, convolutions) for tensor in m.parameters()
    }
    by_parameter = {tensor.data_ptr(): name for name, tensor in named_tensors(network).items()}
    others = {by_parameter[p.data_ptr()] for p in network.parameters() if id(p) not in of_convolutions}

    names = normalization_names(network)

    assert names == others
    assert len(names) == 2 * sum(isinstance(m, nn.InstanceNorm3d) for m in network.modules())
    assert all(".norm." in name for name in names)


def test_running_statistics_of_a_batch_norm_are_named():
    """Weight, bias, mean, variance and the counter: a batch norm is kept whole."""
    names = normalization_names(unet(norm=nn.BatchNorm3d))

    kinds = {name.rpartition(".")[2] for name in names}
    assert kinds == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def test_group_and_layer_norms_are_named_inside_torch_compile():
    """Also where the network is wrapped; convolutions are not."""
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4))

    names = normalization_names(torch.compile(network))

    assert names == {"1.weight", "1.bias", "2.weight", "2.bias", "3.weight"}


def test_mean_of_two_known_weights():
    """By hand, 30 and 10 cases: (30 * 1 + 10 * 5) / 40 = 2; float16 in, float32 out."""
    sites = [{"w": torch.tensor([1.0]).half()}, {"w": torch.tensor([5.0]).half()}]

    mean = mean_of(sites, [30, 10])

    assert mean["w"].tolist() == [2.0]
    assert mean["w"].dtype == torch.float32


@given(st.lists(st.floats(0.015625, 1000), min_size=1, max_size=6), st.integers(0, 100))
def test_the_mean_is_that_of_float64(shares, seed):
    """Any number of sites, any shares: within float32's rounding of the definition."""
    generator = torch.Generator().manual_seed(seed)
    sites = [{"w": torch.randn(5, generator=generator)} for _ in shares]

    mean = mean_of(sites, shares)["w"]

    exact = sum(share * site["w"].double() for share, site in zip(shares, sites, strict=True)) / sum(shares)
    assert torch.allclose(mean.double(), exact, atol=1e-5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5).filter(lambda shares: sum(shares) > 0))
def test_the_mean_of_equal_weights_is_those_weights(shares):
    """Bit for bit: sites that agree stay where they are."""
    weights = {"w": torch.randn(20, generator=torch.Generator().manual_seed(1))}

    assert torch.equal(mean_of([weights] * len(shares), shares)["w"], weights["w"])


def test_a_site_with_share_zero_does_not_count():
    """First or last."""
    one, other = {"w": torch.tensor([0.1])}, {"w": torch.tensor([77.7])}

    assert torch.equal(mean_of([one, other], [3, 0])["w"], one["w"])
    assert torch.equal(mean_of([one, other], [0, 3])["w"], other["w"])


def test_the_mean_is_new_and_keeps_the_first_sites_counter():
    """Integers are no weights; nothing given is changed or shared."""
    sites = [{"w": torch.ones(2), "n": torch.tensor(number)} for number in (7, 9)]

    mean = mean_of(sites, [1, 1])
    mean["w"].zero_()
    mean["n"].zero_()

    assert mean_of(sites, [1, 1])["n"] == 7
    assert sites[0]["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("sites", "shares"),
    [(0, []), (2, [1]), (2, [1, -1]), (2, [0, 0]), (1, [math.nan]), (2, [1, math.inf])],
    ids=["no site", "one share", "negative", "all zero", "nan", "infinite"],
)
def test_shares_that_are_no_shares_are_refused(sites, shares):
    """They would give NaN, or a weight outside all sites'."""
    with pytest.raises(ValueError, match="share"):
        mean_of([{"w": torch.ones(1)}] * sites, shares)


def test_weights_of_other_names_are_not_averaged():
    """Two architectures."""
    with pytest.raises(ValueError, match="different names"):
        mean_of([{"w": torch.ones(1)}, {"v": torch.ones(1)}], [1, 1])


def test_share_zero_is_ours_and_share_one_the_others_bit_for_bit():
    """A network as nnU-Net builds it, aliases and all; also where one side is not finite."""
    ours, other = unet(seed=0), unet(seed=1)
    before = copy.deepcopy(ours)
    theirs = {name: tensor.clone() for name, tensor in named_tensors(other).items()}

    mix(ours, {name: tensor * torch.nan for name, tensor in theirs.items()}, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), before.parameters(), strict=True))

    with torch.no_grad():
        next(ours.parameters()).fill_(torch.nan)
    mix(ours, theirs, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))
    assert ours.decoder.encoder is ours.encoder


def test_a_quarter_of_the_other():
    """By hand: 3/4 * 1 + 1/4 * 5 = 2, in place, so that the optimiser's parameters move too."""
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    parameter = network.weight

    mix(network, {"weight": torch.full((1, 1), 5.0), "bias": torch.full((1,), 5.0)}, 0.25)

    assert parameter is network.weight
    assert parameter.item() == network.bias.item() == 2.0


def test_normalisation_stays_ours_when_it_is_kept():
    """FedBN: all convolutions are the other's, all norms and the batch counters ours."""
    ours, other = unet(norm=nn.BatchNorm3d, seed=0), unet(norm=nn.BatchNorm3d, seed=1)
    for number, network in enumerate((ours, other)):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.constant_(module.weight, number)
                module.running_mean.fill_(number)
                module.num_batches_tracked.fill_(number)
    keep = normalization_names(ours)
    before = {name: tensor.clone() for name, tensor in named_tensors(ours).items()}

    mix(ours, named_tensors(other), 1.0, keep)

    for name, tensor in named_tensors(ours).items():
        assert torch.equal(tensor, (before if name in keep else named_tensors(other))[name])


def test_counters_stay_ours():
    """A batch norm's number of batches is not averaged, even where norms are."""
    ours, other = nn.BatchNorm3d(2), nn.BatchNorm3d(2)
    other.num_batches_tracked.fill_(9)
    other.running_mean.fill_(1.0)

    mix(ours, named_tensors(other), 1.0)

    assert int(ours.num_batches_tracked) == 0
    assert ours.running_mean.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_zero_to_one_is_refused(share):
    """It would extrapolate."""
    with pytest.raises(ValueError, match="within 0 and 1"):
        mix(nn.Linear(1, 1), {}, share)


def test_momentum_is_scaled_in_place():
    """By hand: after one step the buffer is the gradient, 2; times 0.75 it is 1.5."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.99)
    parameter.grad = torch.full((1,), 2.0)
    optimizer.step()
    buffer = optimizer.state[parameter]["momentum_buffer"]

    scale_momentum(optimizer, 0.75)

    assert optimizer.state[parameter]["momentum_buffer"] is buffer
    assert buffer.item() == 1.5


def test_momentum_of_adam_is_scaled_too():
    """After one step with the gradient 2 the mean is (1 - 0.9) times 2 = 0.2; half of it is 0.1."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.999))
    parameter.grad = torch.full((1,), 2.0)
    optimizer.step()

    scale_momentum(optimizer, 0.5)

    assert optimizer.state[parameter]["exp_avg"].item() == pytest.approx(0.1)
    assert optimizer.state[parameter]["exp_avg_sq"].item() == pytest.approx(0.004)


def test_an_optimiser_without_history_has_nothing_to_scale():
    """Before its first step, and SGD without momentum, which keeps None."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    parameter.grad = torch.ones(1)

    scale_momentum(optimizer, 0.5)
    optimizer.step()
    scale_momentum(optimizer, 0.5)

    assert parameter.item() == pytest.approx(-0.1)


def scores(dice):
    """Of a network with one class, which is present."""
    return Scores(torch.tensor([dice], dtype=torch.float64), torch.tensor([True]))


def merged(kind, dice_peer, dice_ours, dice_after=1.0, keep=()):
    """Ours 1, the peer's 3, momentum 8: the share, our weight and our momentum afterwards.

    The Dice said to be ours afterwards is that of the weights which stay.
    """
    ours, theirs = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for network, value in ((ours, 1.0), (theirs, 3.0)):
        nn.init.constant_(network.weight, value)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[ours.weight]["momentum_buffer"] = torch.tensor([[8.0]])
    said = scores(dice_peer), scores(dice_ours), lambda: scores(dice_after)
    share, afterwards = merge(kind, ours, theirs, optimizer, *said, keep)
    known = {0.0: dice_ours} if keep else {0.0: dice_ours, 1.0: dice_peer}
    assert afterwards.mean == pytest.approx(known.get(share, dice_after), nan_ok=True)
    return share, float(ours.weight.detach()), float(optimizer.state[ours.weight]["momentum_buffer"])


@pytest.mark.parametrize(
    ("kind", "dice_peer", "dice_ours", "dice_after", "expected"),
    [
        ("none", 0.9, 0.1, 1.0, (0.0, 1.0, 8.0)),
        ("best", 0.9, 0.1, 1.0, (1.0, 3.0, 0.0)),  # all of the peer's; its weights have no history here
        ("best", 0.5, 0.499, 1.0, (0.0, 1.0, 8.0)),  # better, but not by 0.005
        ("weighted", 0.9, 0.1, 0.5, (0.5, 2.0, 4.0)),  # 1 + (3 - 1) / 2, and half of the momentum
        ("weighted", 0.9, 0.1, 0.05, (0.0, 1.0, 8.0)),  # our Dice fell: taken back
        ("weighted", 0.9, 0.1, math.nan, (0.0, 1.0, 8.0)),  # and so where it cannot be measured
        ("weighted", math.nan, 0.1, 1.0, (0.0, 1.0, 8.0)),
        ("select", 0.9, 0.1, 0.95, (0.5, 2.0, 4.0)),  # the mean is better than either
        ("select", 0.9, 0.1, 0.8, (1.0, 3.0, 0.0)),  # the peer is better than the mean
        ("select", 0.5, 0.499, 0.503, (0.0, 1.0, 8.0)),  # neither is better by 0.005
        ("select", 0.2, 0.5, 0.6, (0.5, 2.0, 4.0)),  # a worse peer may still make a better mean
        ("select", 0.9, 0.1, math.nan, (1.0, 3.0, 0.0)),
        ("select", math.nan, 0.1, 1.0, (0.5, 2.0, 4.0)),
        ("lean", 0.6, 0.6, 0.597, (0.5, 2.0, 4.0)),  # the mean is worse, but not by 0.005
        ("lean", 0.6, 0.6, 0.59, (0.0, 1.0, 8.0)),  # it is worse than ours
        ("lean", 0.9, 0.1, 0.8, (1.0, 3.0, 0.0)),  # the peer is better than ours and than the mean
        ("lean", 0.61, 0.6, 0.606, (0.5, 2.0, 4.0)),  # better than ours, but not than the mean
        ("lean", 0.9, 0.1, math.nan, (0.0, 1.0, 8.0)),  # nothing can be measured
    ],
)
def test_what_a_merge_takes_over(kind, dice_peer, dice_ours, dice_after, expected):
    """Share, weight and momentum of each way."""
    assert merged(kind, dice_peer, dice_ours, dice_after) == pytest.approx(expected)


@pytest.mark.parametrize(("dice_after", "share"), [(0.05, 0.0), (0.5, 1.0), (math.nan, 0.0)])
def test_all_of_a_peer_but_what_stays_ours_is_measured_so(dice_after, share):
    """A peer is good with its own normalisation; what counts is how good its weights are with ours."""
    weight = 1.0  # the only tensor is one that stays
    assert merged("best", 0.9, 0.1, dice_after, keep={"weight"}) == (share, weight, 8 * (1 - share))


@pytest.mark.parametrize("dice_peer", [0.9, 0.1, math.nan])
def test_another_kind_of_merge_is_refused(dice_peer):
    """A slip of the pen is no ``best``; the message has what was given and what there is."""
    with pytest.raises(ValueError, match="merge is 'selct', but must be one of none, best"):
        merged("selct", dice_peer, 0.5)


@pytest.mark.parametrize("kind", ["best", "weighted", "select", "lean"])
def test_a_peer_that_is_not_finite_changes_nothing(kind):
    """One NaN in its weights, however good it is said to be."""
    ours, theirs = nn.Linear(2, 1), nn.Linear(2, 1)
    before = copy.deepcopy(ours)
    with torch.no_grad():
        theirs.weight[0, 0] = torch.nan
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)

    share, afterwards = merge(kind, ours, theirs, optimizer, scores(1.0), scores(0.0), lambda: scores(1.0))

    assert (share, afterwards.mean) == (0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), before.parameters(), strict=True))
