"""Classes matched by name: what travels is in the federation's order, what is used in ours."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_kit import unet
from safetensors.torch import load_file, save_file
from torch import nn

from nnunet_gml import weights
from nnunet_gml.channels import class_order, from_federation, output_layers, to_federation
from nnunet_gml.payload import DTYPES
from nnunet_gml.tensors import named_tensors

FEDERATION = ("cord", "eye", "lens")
NORTH = ("lens", "cord", "eye")
SOUTH = ("eye", "lens", "cord")


def test_order_of_two_swapped_classes():
    """The federation's first class is our second."""
    assert class_order(("eye", "cord", "lens"), FEDERATION) == (1, 0, 2)


def test_the_same_numbers_need_no_order():
    """Nothing is copied where nothing moves."""
    assert class_order(FEDERATION, FEDERATION) is None
    assert class_order(list(FEDERATION), FEDERATION) is None
    assert class_order(NORTH, None) is None


@pytest.mark.parametrize("classes", [("cord", "eye"), (*FEDERATION, "jaw"), ("cord", "cord", "eye")])
def test_other_names_have_no_order(classes):
    """A class too few, one too many, one twice."""
    with pytest.raises(ValueError, match="but the federation's are cord, eye, lens"):
        class_order(classes, FEDERATION)


def test_segmentation_layers_of_nnunets_network_are_found():
    """One per scale of deep supervision, weight and bias; also inside torch.compile."""
    expected = {f"decoder.seg_layers.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")}

    assert set(output_layers(named_tensors(unet()))) == expected
    assert set(output_layers(named_tensors(torch.compile(unet())))) == expected


def test_an_architecture_without_segmentation_layers_is_told(tmp_path):
    """Only where channels must move; numbered alike, any architecture travels."""
    network = nn.Sequential(nn.Conv3d(1, 4, 1))

    with pytest.raises(
        NotImplementedError, match=r"network has no decoder\.seg_layers \(it begins with 0\.weight\)"
    ):
        weights.write(network, tmp_path / "w.safetensors", "float32", order=(1, 0, 2))
    weights.write(network, tmp_path / "w.safetensors", "float32")
    with pytest.raises(NotImplementedError, match="number the classes alike"):
        weights.read(tmp_path / "w.safetensors", network, "float32", order=(1, 0, 2))


def test_background_stays_first():
    """By hand: channels background, lens, cord, eye become background, cord, eye, lens."""
    tensors = {"head": torch.tensor([0.0, 1.0, 2.0, 3.0]), "other": torch.arange(4)}
    order = class_order(NORTH, FEDERATION)

    travelling = to_federation(tensors, ["head"], order, has_background=True)

    assert travelling["head"].tolist() == [0.0, 2.0, 3.0, 1.0]
    assert travelling["other"] is tensors["other"]
    assert tensors["head"].tolist() == [0.0, 1.0, 2.0, 3.0]


@given(st.permutations(range(6)), st.booleans())
def test_there_and_back_is_where_it_was(order, has_background):
    """Any order, with and without background."""
    tensors = {"head": torch.arange(6 + has_background)}

    travelling = to_federation(tensors, ["head"], tuple(order), has_background)

    back = from_federation(travelling, ["head"], tuple(order), has_background)
    assert torch.equal(back["head"], tensors["head"])


def test_a_layer_of_another_number_of_channels_is_refused():
    """Six classes and no background are not five classes and one."""
    with pytest.raises(ValueError, match="head has 6 output channels, but expected 7"):
        to_federation({"head": torch.arange(6)}, ["head"], (5, 4, 3, 2, 1, 0), has_background=True)


def renumbered(network: nn.Module, classes: tuple[str, ...], as_in: tuple[str, ...]) -> nn.Module:
    """The same network for other numbers, made by hand: each class's filter moves to its new channel."""
    other = unet()
    other.load_state_dict(network.state_dict())
    places = [0, *(1 + classes.index(name) for name in as_in)]
    with torch.no_grad():
        for mine, layer in zip(other.decoder.seg_layers, network.decoder.seg_layers, strict=True):
            mine.weight.copy_(layer.weight[places])
            mine.bias.copy_(layer.bias[places])
    return other


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_of_other_numbers_says_the_same_of_each_class(tmp_path, dtype):
    """North's network in south's numbers gives, for each name, north's output on an image."""
    north, south = unet(seed=0), unet(seed=1)
    for network in (north, south):
        for layer in network.decoder.seg_layers:
            nn.init.normal_(layer.bias)
    image = torch.randn(1, 1, 8, 8, 8)
    path = tmp_path / "w.safetensors"

    weights.write(north, path, dtype, class_order(NORTH, FEDERATION))
    likeness = weights.read(path, renumbered(north, NORTH, SOUTH), dtype, class_order(SOUTH, FEDERATION))[1]
    tensors, _ = weights.read(path, south, dtype, class_order(SOUTH, FEDERATION))
    weights.put(tensors, south)

    tolerance = {"float32": 0.0, "float16": 0.01, "int8": 0.3}[dtype]
    for sent, received in zip(north(image), south(image), strict=True):
        for name in FEDERATION:
            said, heard = sent[:, 1 + NORTH.index(name)], received[:, 1 + SOUTH.index(name)]
            assert torch.allclose(said, heard, rtol=0, atol=tolerance)
        assert torch.allclose(sent[:, 0], received[:, 0], rtol=0, atol=tolerance)
    assert likeness.distance < 0.02


def test_what_travels_is_in_the_federations_order(tmp_path):
    """Two sites with the same network, numbered differently, write the same bytes."""
    north = unet(seed=3)
    south = renumbered(north, NORTH, SOUTH)

    for name, network, classes in (("north", north, NORTH), ("south", south, SOUTH)):
        weights.write(network, tmp_path / name, "float32", class_order(classes, FEDERATION))

    assert (tmp_path / "north").read_bytes() == (tmp_path / "south").read_bytes()


def test_regions_have_no_background(tmp_path):
    """Every channel moves."""
    network, order = unet(), (3, 2, 1, 0)

    weights.write(network, tmp_path / "w.safetensors", "float32", order, has_background=False)

    sent = load_file(tmp_path / "w.safetensors")["decoder.seg_layers.0.bias"]
    assert torch.equal(sent, network.decoder.seg_layers[0].bias.flip(0))
    tensors, likeness = weights.read(tmp_path / "w.safetensors", network, "float32", order, False)
    assert torch.equal(tensors["decoder.seg_layers.0.bias"], network.decoder.seg_layers[0].bias)
    assert likeness.distance == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_that_does_not_fit_the_type_travels_in_order_too(tmp_path, dtype):
    """Too large for float16 and int8: float32, and still in the federation's order."""
    north = unet()
    order = class_order(NORTH, FEDERATION)
    with torch.no_grad():
        north.decoder.seg_layers[0].weight[1] = 2e38

    assert weights.write(north, tmp_path / "w.safetensors", dtype, order) == "float32"

    sent = load_file(tmp_path / "w.safetensors")["decoder.seg_layers.0.weight"]
    assert (sent[1 + FEDERATION.index("lens")] == 2e38).all()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t["decoder.seg_layers.1.bias"].__setitem__(0, torch.nan), "finite"),
        (lambda t: t["decoder.seg_layers.1.weight"].mul_(100), "norm"),
        (lambda t: [tensor.neg_() for tensor in t.values()], "cosine"),
        (lambda t: t["decoder.seg_layers.1.bias"].add_(1e3), "distance"),
        (lambda t: t.update({"decoder.seg_layers.1.bias": torch.zeros(5)}), "size"),
    ],
    ids=["nan", "times 100", "sign flip", "bias of 1000", "a class more"],
)
def test_poisoned_weights_are_refused_in_any_order(tmp_path, change, rule):
    """The checks are those of weights that are numbered alike."""
    network, path = unet(), tmp_path / "w.safetensors"
    order = class_order(NORTH, FEDERATION)
    weights.write(network, path, "float32", order)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)

    for asked in (order, None):
        with pytest.raises(weights.WeightsError) as error:
            weights.read(path, network, "float32", asked)
        assert error.value.rule == rule


def test_likeness_is_measured_class_by_class(tmp_path):
    """Our own weights are at distance 0 when read by name, and not when read by number."""
    network, path = unet(), tmp_path / "w.safetensors"
    order = class_order(NORTH, FEDERATION)
    weights.write(network, path, "float32", order)

    assert weights.read(path, network, "float32", order)[1].distance == 0.0
    assert weights.read(path, network, "float32")[1].distance > 0.0
