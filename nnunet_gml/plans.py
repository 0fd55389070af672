"""One plan for all sites: what must agree, as one digest."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from peer_sync.errors import ConfigError
from peer_sync.federation import Member
from peer_sync.site import Site

MUST_AGREE = (
    "spacing",
    "patch_size",
    "architecture",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_seg",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg_kwargs",
    "previous_stage",
)
"""Fields of a configuration that decide what a network's weights and inputs mean."""


def plans_digest(plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str) -> str:
    """SHA-256 (hex) of all that sites must have in common to learn from each other's networks.

    Covers the configuration's architecture, spacing, patch size, normalisation and resampling, the
    intensity statistics used to normalise, the order of axes, and the names and numbers of channels and
    labels. Leaves out what is each site's own: the dataset's name, its size, the batch size.

    Args:
        plans: nnU-Net's plans file.
        dataset_json: nnU-Net's dataset.json.
        configuration: such as ``3d_fullres``; what it inherits is followed by nnU-Net.

    Raises:
        ConfigError: the plans have no such configuration.
    """
    contract = contract_of(plans, dataset_json, configuration)
    text = json.dumps(contract, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def contract_of(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str
) -> dict[str, Any]:
    """The fields behind `plans_digest`, as plain JSON values."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if configuration not in plans["configurations"]:
        known = ", ".join(sorted(plans["configurations"]))
        raise ConfigError(f"the plans have no configuration {configuration!r}, but {known}")
    resolved = PlansManager(dict(plans)).get_configuration(configuration).configuration
    return {
        "configuration": {key: resolved.get(key) for key in MUST_AGREE},
        "intensities": plans["foreground_intensity_properties_per_channel"],
        "transpose_forward": plans["transpose_forward"],
        "channels": dataset_json.get("channel_names", dataset_json.get("modality")),
        "labels": dataset_json["labels"],
        "classes": class_names(dataset_json),
        "regions_class_order": dataset_json.get("regions_class_order"),
    }


def class_names(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the foreground classes or regions, in the order of the network's output channels."""
    labels = {
        name: value
        for name, value in dataset_json["labels"].items()
        if name != "ignore" and value not in (0, [0], (0,))
    }
    if any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values()):
        return tuple(labels)
    return tuple(sorted(labels, key=lambda name: int(_number(labels[name]))))


def labelled_by(member: Member, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes a site contours; every class, where the federation file says nothing."""
    return classes if member.labelled is None else member.labelled


def check_agreement(
    site: Site, plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str
) -> None:
    """Make sure that this training is the one the federation agreed on.

    Raises:
        ConfigError: the plans digest, or a class named as labelled, is not the federation's.
    """
    federation = site.federation
    found = plans_digest(plans, dataset_json, configuration)
    if found != federation.plans_digest:
        raise ConfigError(
            f"plans digest of configuration {configuration} is {found}, "
            f"but federation {federation.name} expects {federation.plans_digest}",
            hint="train the agreed configuration, with the same plans file at every site "
            "(nnunet-gml plans digest shows the digest of a plans file)",
        )
    classes = class_names(dataset_json)
    unknown = set(labelled_by(federation.member(site.name), classes)) - set(classes)
    if unknown:
        raise ConfigError(
            f"labelled of site {site.name} names {', '.join(sorted(unknown))}, "
            f"but the dataset's classes are {', '.join(classes)}",
            hint=f"mend the names in {federation.path}",
        )


def _number(label: Any) -> int:  # noqa: ANN401 - a number, or a list of one number
    return int(label[0]) if isinstance(label, (list, tuple)) else int(label)
