"""Plans from elsewhere, checked before nnU-Net sees them.

nnU-Net imports what plans name (`pydoc.locate`) and removes folders that they name (``data_identifier``):
another site's plans could run any code and remove any folder. So every name has to be of a plan's own kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from peer_sync.errors import quoted

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
NETWORK = re.compile(r"dynamic_network_architectures\.architectures\.[a-z0-9_]{1,64}\.[A-Z][A-Za-z0-9]{0,63}")
LAYER = re.compile(r"torch\.nn\.(modules\.[a-z]{1,32}\.)?[A-Z][A-Za-z0-9]{0,63}")
RESERVED = ("dataset", "dataset_fingerprint", "splits_final", "gt_segmentations")
"""Files and the folder that lie beside plans: none of them may be overwritten or removed."""
LAYERS = ("conv_op", "norm_op", "dropout_op", "nonlin")
"""Arguments of a network that name a class; all others are numbers."""
MOST_NUMBER = 1e30
MOST_ITEMS = 1000
MOST_DEPTH = 5
MOST_CONFIGURATIONS = 64
MOST_CHARACTERS = 128

Check = Callable[[Any], bool]


class PlansError(ValueError):
    """These are no plans that this site would use; says which field, and what is in it."""


def check_plans(plans: object) -> dict[str, Any]:
    """Let nothing through but fields, names and numbers of nnU-Net's plans. Raises `PlansError`."""
    content = _fields(plans, PLANS, "plans", optional=("dataset_name",))
    configurations = content["configurations"]
    if not _is_dict(configurations) or not 0 < len(configurations) <= MOST_CONFIGURATIONS:
        raise _unexpected("configurations", configurations)
    for name, configuration in configurations.items():
        place = f"configuration {quoted(name)}"
        if not _is_name(name):
            raise _unexpected(place, name)
        _fields(configuration, CONFIGURATION, place, optional=tuple(CONFIGURATION))
        if "architecture" in configuration:
            _check_architecture(configuration["architecture"], place)
    return content


def check_dataset(dataset: object) -> dict[str, Any]:
    """The part of dataset.json that sites show each other: labels, channels, order of regions.

    Raises:
        PlansError: something else, or of another type.
    """
    content = _fields(dataset, DATASET, "dataset")
    if "background" not in content["labels"]:
        raise PlansError("labels: expected one called 'background', found none")
    return content


def _check_architecture(architecture: object, place: str) -> None:
    content = _fields(architecture, ARCHITECTURE, f"{place}, architecture")
    arguments = content["arch_kwargs"]
    for name, value in arguments.items():
        if not _is_word(name):
            raise _unexpected(f"{place}, arch_kwargs", name)
        good = (value is None or _is_match(LAYER)(value)) if name in LAYERS else _is_plain(value)
        if not good:
            raise _unexpected(f"{place}, {name}", value)
    imported = content["_kw_requires_import"]
    if not set(imported) <= set(LAYERS) & arguments.keys():
        raise _unexpected(f"{place}, _kw_requires_import", imported)


def _fields(
    value: object, checks: Mapping[str, Check], place: str, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """An object that has these fields, each as it should be, and no other."""
    if not isinstance(value, dict):
        raise _unexpected(place, value)
    for name in value:
        if name not in checks:
            raise PlansError(f"{place}: expected only fields of nnU-Net's own, found {quoted(name)}")
        if not checks[name](value[name]):
            raise _unexpected(f"{place}, {name}", value[name])
    missing = checks.keys() - value.keys() - set(optional)
    if missing:
        raise PlansError(f"{place}: expected {', '.join(sorted(missing))}, found none")
    return value


def _unexpected(place: str, value: object) -> PlansError:
    return PlansError(f"{place}: expected a value that nnU-Net would write, found {quoted(value)}")


def _is_match(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_CHARACTERS and value.isprintable()


def _is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and len(value) <= MOST_ITEMS and all(map(_is_word, value))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_ITEMS


def _is_plain(value: object, depth: int = MOST_DEPTH) -> bool:
    """Numbers, yes, no and nothing, in lists and objects: no text, so nothing that could be imported."""
    if value is None or isinstance(value, bool) or _is_number(value):
        return True
    if depth and isinstance(value, (list, dict)) and len(value) <= MOST_ITEMS:
        items = value.values() if isinstance(value, dict) else value
        return (isinstance(value, list) or _is_dict(value)) and all(
            _is_plain(item, depth - 1) for item in items
        )
    return False


def _is_list(is_item: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= MOST_ITEMS and all(map(is_item, value))


def _is_labels(value: object) -> bool:
    return _is_dict(value) and all(map(_is_label, value.values()))


def _is_label(value: object) -> bool:
    return _is_whole(value) or (_is_list(_is_whole)(value) and value != [])


def _is_intensities(value: object) -> bool:
    return (
        _is_dict(value)
        and all(map(_is_dict, value.values()))
        and all(_is_number(number) for channel in value.values() for number in channel.values())
    )


def _is_place(value: object) -> bool:
    """The name of a plans file or of a folder of preprocessed cases, so of nothing else that lies there."""
    return _is_name(value) and str(value).lower() not in RESERVED


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0


_is_name = _is_match(NAME)
_is_names = _is_list(_is_name)
PLANS: Mapping[str, Check] = {
    "dataset_name": _is_name,
    "plans_name": _is_place,
    "original_median_spacing_after_transp": _is_list(_is_number),
    "original_median_shape_after_transp": _is_list(_is_number),
    "image_reader_writer": _is_name,
    "transpose_forward": _is_list(_is_whole),
    "transpose_backward": _is_list(_is_whole),
    "configurations": lambda value: True,
    "experiment_planner_used": _is_name,
    "label_manager": _is_name,
    "foreground_intensity_properties_per_channel": _is_intensities,
}
CONFIGURATION: Mapping[str, Check] = {
    **dict.fromkeys(("inherits_from", "previous_stage", "next_stage"), _is_name),
    "data_identifier": _is_place,
    "preprocessor_name": _is_name,
    "batch_size": lambda value: _is_whole(value) and value > 0,
    **dict.fromkeys(("patch_size", "median_image_size_in_voxels", "spacing"), _is_list(_is_positive)),
    "normalization_schemes": _is_names,
    "use_mask_for_norm": _is_list(lambda value: isinstance(value, bool)),
    **dict.fromkeys((f"resampling_fn_{what}" for what in ("data", "seg", "probabilities")), _is_name),
    **dict.fromkeys((f"resampling_fn_{what}_kwargs" for what in ("data", "seg", "probabilities")), _is_plain),
    "architecture": lambda value: True,
    "batch_dice": lambda value: isinstance(value, bool),
}
ARCHITECTURE: Mapping[str, Check] = {
    "network_class_name": _is_match(NETWORK),
    "arch_kwargs": _is_dict,
    "_kw_requires_import": _is_names,
}
DATASET: Mapping[str, Check] = {
    "labels": _is_labels,
    "channel_names": lambda value: _is_dict(value) and all(map(_is_word, value.values())),
    "regions_class_order": lambda value: value is None or _is_list(_is_whole)(value),
}
