"""Output channels by the class's name: sites may number the same classes differently.

Weights travel in the federation's order of classes, the key ``classes`` of federation.toml; each site
puts the channels of its segmentation layers into that order on the way out, and back on the way in.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

SEGMENTATION_LAYERS = "decoder.seg_layers."
"""One per scale in nnU-Net's own architectures; their first dimension is the output channel."""

Order = Sequence[int]
"""For each class of the federation its place among this site's classes, from 0."""


def class_order(classes: Sequence[str], federation_classes: Sequence[str] | None) -> tuple[int, ...] | None:
    """How the federation's classes are numbered here.

    Args:
        classes: this site's, in the order of its network's output channels, without background.
        federation_classes: the federation's, or None where all sites number them alike.

    Returns:
        For each class of the federation its place in ``classes``; None where nothing has to move.

    Raises:
        ValueError: the two do not hold the same names.

    Example:
        >>> class_order(("eye", "cord", "lens"), ("cord", "eye", "lens"))
        (1, 0, 2)
    """
    if federation_classes is None or tuple(classes) == tuple(federation_classes):
        return None
    if sorted(classes) != sorted(federation_classes):
        raise ValueError(
            f"classes are {', '.join(classes)}, but the federation's are {', '.join(federation_classes)}"
        )
    return tuple(classes.index(name) for name in federation_classes)


def output_layers(names: Iterable[str]) -> tuple[str, ...]:
    """The tensors of nnU-Net's segmentation layers among a network's `named_tensors`.

    Raises:
        NotImplementedError: the architecture has no ``decoder.seg_layers``; its channels cannot be found.
    """
    known = tuple(names)
    layers = tuple(name for name in known if name.startswith(SEGMENTATION_LAYERS))
    if not layers:
        first = next(iter(known), "nothing")
        raise NotImplementedError(
            f"this network has no {SEGMENTATION_LAYERS[:-1]} (it begins with {first}), "
            "so its output channels cannot be matched by name: number the classes alike at every site, or "
            "use one of nnU-Net's own architectures"
        )
    return layers


def to_federation(
    tensors: Mapping[str, Tensor], layers: Collection[str], order: Order, has_background: bool
) -> dict[str, Tensor]:
    """Our tensors with the output channels in the federation's order.

    Args:
        tensors: by name; those that are not in ``layers`` come back as they are.
        layers: names from `output_layers`.
        order: from `class_order`.
        has_background: channel 0 is the background and stays first (softmax); with regions there is none.

    Raises:
        ValueError: a layer has another number of channels.
    """
    return _permuted(tensors, layers, _channel_order(order, has_background))


def from_federation(
    tensors: Mapping[str, Tensor], layers: Collection[str], order: Order, has_background: bool
) -> dict[str, Tensor]:
    """The inverse of `to_federation`: a peer's tensors with the output channels in our order."""
    return _permuted(tensors, layers, _channel_order(order, has_background).argsort())


def _channel_order(order: Order, has_background: bool) -> Tensor:
    return torch.tensor([0, *(1 + place for place in order)] if has_background else order)


def _permuted(tensors: Mapping[str, Tensor], layers: Collection[str], channels: Tensor) -> dict[str, Tensor]:
    for name in layers:
        if len(tensors[name]) != len(channels):
            raise ValueError(
                f"tensor {name} has {len(tensors[name])} output channels, but expected {len(channels)}"
            )
    return {
        name: tensor[channels.to(tensor.device)] if name in layers else tensor
        for name, tensor in tensors.items()
    }
