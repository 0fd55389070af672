"""benchmarks/payload.py: its arithmetic on networks small enough to do it by hand."""

import math

import pytest
import torch
from torch import nn

from nnunet_gml import weights


@pytest.fixture
def sign(bench):
    """A network that finds class 1 where the image is negative, with logits (x, -x); patch 4x4x4."""
    network = nn.Conv3d(1, 2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1))
    return bench("reconstruction").Model(network, (4, 4, 4), (2, 2, 2))


@pytest.fixture
def cases(bench):
    """Two cases that the network labels without error: 2 of 3 voxels, and 1 of 2, are of class 1."""
    images = [torch.tensor([-1.0, -2.0, 3.0]).view(1, 1, 1, 3), torch.tensor([4.0, -5.0]).view(1, 1, 2, 1)]
    return [bench("reconstruction").Case(image, (image[0] < 0).long()) for image in images]


def changed(*numbers):
    return {"weight": torch.tensor(numbers).view(2, 1, 1, 1, 1)}


def test_larger_logits_change_no_class(bench, sign, cases):
    """By hand: all weights times 1.5 are off by half their norm; so are the logits."""
    loss = bench("reconstruction").Reference(sign, cases).loss(changed(1.5, -1.5))

    assert (loss.weights, loss.logits, loss.voxels) == pytest.approx((0.5, 0.5, 0.0))
    assert loss.dice == (1.0,) and loss.dice_change == (0.0,)


def test_dice_and_voxels_of_a_changed_class(bench, sign, cases):
    """By hand: logits (x, 2x) turn every voxel over; one weight moves by 3, the norm was the root of 2."""
    loss = bench("reconstruction").Reference(sign, cases).loss(changed(1.0, 2.0))

    assert loss.voxels == 1.0
    assert loss.dice_change == (-1.0,)
    assert loss.weights == pytest.approx(3 / math.sqrt(2))


def test_one_voxel_of_five(bench):
    """By hand: 1 of 3 + 2 voxels gets another class."""
    before = [torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])]
    after = [before[0], torch.tensor([[3.0, 1.0], [2.0, 2.0]])]

    assert bench("reconstruction").changed_fraction(before, after) == 0.2


def test_dice_of_known_masks(bench):
    """By hand: 2 * 1 / (2 + 1); without a voxel on either side there is nothing to say."""
    dice, mean = bench("reconstruction").dice, bench("reconstruction").mean
    mask, part, empty = (torch.tensor(m, dtype=torch.bool) for m in ([1, 1, 0], [0, 1, 0], [0, 0, 0]))

    assert dice(mask, part) == pytest.approx(2 / 3)
    assert dice(mask, empty) == 0
    assert math.isnan(dice(empty, empty))
    assert mean([1.0, math.nan, 0.0]) == 0.5 and math.isnan(mean([math.nan]))


def test_logits_are_those_of_the_image_alone(bench, sign, cases):
    """Padded to the patch as nnU-Net does, and cut back."""
    logits = bench("reconstruction").logits_of(sign, cases[0].image)

    assert logits.tolist() == [[[[-1.0, -2.0, 3.0]]], [[[1.0, 2.0, -3.0]]]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_journey_is_that_of_an_exchange(bench, sign, cases, dtype):
    """Weights 1 and -1 survive every type; bytes are the ones a peer accepts."""
    journey, tensors = bench("reconstruction").journey(sign.network, dtype, runs=1)

    assert journey.written == dtype
    assert journey.file_bytes == weights.payload_bytes(sign.network)[dtype]
    assert journey.encode_seconds > 0 and journey.decode_seconds > 0
    loss = bench("reconstruction").Reference(sign, cases).loss(tensors)
    assert loss.weights == loss.logits == loss.voxels == 0


def test_the_page_shows_mean_and_worst(bench):
    """By hand: (2e-4 + 4e-4) / 2; of the changes of Dice the worst is the one furthest from 0."""
    reconstruction, page = bench("reconstruction"), bench("payload_page")
    losses = [
        reconstruction.Loss(2e-4, 1e-3, 0.0, (0.8, math.nan), (0.001, math.nan)),
        reconstruction.Loss(4e-4, 3e-3, 1e-5, (0.6, math.nan), (-0.002, math.nan)),
    ]
    row = page.Row("small", "int8", losses, [reconstruction.Journey("float32", 2_000_000, 0.5, 0.25)])
    size = page.Size("small", 1000, 16_000, {"float32": 4000, "float16": 2000, "int8": 1000})

    text = page.page("# About", ("front", "back"), [size], [row], timings=7)

    assert "| small | 1,000 | 16,000 | 4,000 (25.0%) | 2,000 (12.5%) | 1,000 (6.2%) |" in text
    assert "3.0e-04 (4.0e-04) | 2.0e-03 (3.0e-03) | 0.0005% (0.0010%) | -0.00050 (-0.00200) | - |" in text
    assert "| small | int8, some written as float32 | 2.00 | 0.500 s | 0.250 s |" in text
    assert "Dice before: small: front 0.7000, back nan." in text


def test_the_full_size_network_has_31_million_parameters(bench):
    """nnU-Net's plan for a common patch: 31,196,399 with three outputs, deep supervision included."""
    plan = {"conv_op": "torch.nn.modules.conv.Conv3d", "conv_bias": True, "dropout_op": None}
    plan |= {"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True}}
    plan |= {"nonlin": "torch.nn.LeakyReLU"}
    parent = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": plan,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    plans = {"configurations": {"3d_fullres": {"architecture": parent}}}

    architecture = bench("full_size").six_stages(plans, halved_stages=5)

    assert bench("trained").parameters(bench("trained").untrained(architecture, 1, 3)) == 31_196_399
    assert bench("trained").divisor_of(architecture["arch_kwargs"]) == (32, 32, 32)


def test_without_a_run_it_says_what_to_do(bench, tmp_path, capsys):
    """The data are not in the repository."""
    assert bench("payload").main([str(tmp_path), "--out", str(tmp_path / "page.md")]) == 0

    assert "make hippocampus" in capsys.readouterr().out
    assert not (tmp_path / "page.md").exists()
