"""One plan for all sites: what must agree, as one digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peer_sync.errors import ConfigError, quoted
from peer_sync.federation import Federation, Member
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


def plans_digest(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str, by_name: bool = False
) -> str:
    """SHA-256 (hex) of all that sites must have in common to learn from each other's networks.

    Covers the configuration's architecture, spacing, patch size, normalisation and resampling, the
    intensity statistics used to normalise, the order of axes, and the names and numbers of channels and
    labels. Leaves out what is each site's own: the dataset's name, its size, the batch size.

    Args:
        plans: nnU-Net's plans file.
        dataset_json: nnU-Net's dataset.json.
        configuration: such as ``3d_fullres``; what it inherits is followed by nnU-Net.
        by_name: of the labels only the names of the classes count: each site may number them as it likes,
            and may have an ignore label or not. For a federation.toml with the key ``classes``.

    Raises:
        ConfigError: the plans have no such configuration; by name, and the labels are regions.
    """
    return contract_digest(contract_of(plans, dataset_json, configuration, by_name))


def contract_digest(contract: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what `contract_of` returned."""
    text = json.dumps(contract, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def contract_of(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str, by_name: bool = False
) -> dict[str, Any]:
    """The fields behind `plans_digest`, as plain JSON values."""
    if configuration not in plans["configurations"]:
        known = ", ".join(sorted(plans["configurations"]))
        raise ConfigError(f"the plans have no configuration {configuration!r}, but {known}")
    resolved = resolved_configuration(plans, configuration)
    return {
        "configuration": {key: resolved.get(key) for key in MUST_AGREE},
        "intensities": plans["foreground_intensity_properties_per_channel"],
        "transpose_forward": plans["transpose_forward"],
        "channels": channel_names(dataset_json),
        **(_names_alone(dataset_json, resolved) if by_name else _numbered_labels(dataset_json)),
    }


def resolved_configuration(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with all that it inherits, as nnU-Net follows it."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    return dict(PlansManager(dict(plans)).get_configuration(configuration).configuration)


def channel_names(dataset_json: Mapping[str, Any]) -> dict[str, str] | None:
    """Names of the images' channels by their number, under the older key as well; None without either."""
    names: dict[str, str] | None = dataset_json.get("channel_names", dataset_json.get("modality"))
    return names


def _numbered_labels(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "labels": dataset_json["labels"],
        "classes": class_names(dataset_json),
        "regions_class_order": dataset_json.get("regions_class_order"),
    }


def _names_alone(dataset_json: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    if _has_regions(dataset_json["labels"]):
        raise ConfigError(
            "classes cannot be matched by name where they are regions: their order and content must agree",
            hint="leave out the key classes in federation.toml, and --by-name",
        )
    if configuration.get("previous_stage"):
        raise ConfigError(
            "classes cannot be matched by name in a cascade: the previous stage's labels are numbered inputs",
            hint="number the classes alike at every site, and leave out the key classes and --by-name",
        )
    return {"class_names": sorted(class_names(dataset_json))}


def class_names(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the foreground classes or regions, in the order of the network's output channels."""
    labels = {
        name: value
        for name, value in dataset_json["labels"].items()
        if name != "ignore" and value not in (0, [0], (0,))
    }
    if _has_regions(labels):
        return tuple(labels)
    return tuple(sorted(labels, key=lambda name: int(_number(labels[name]))))


def labelled_by(member: Member, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes a site contours; every class, where the federation file says nothing."""
    return classes if member.labelled is None else member.labelled


@dataclass(frozen=True)
class FieldDifference:
    """A field of the contract in which two sites differ.

    Attributes:
        field: its name, with dots between the levels.
        ours: its value here; None where there is none.
        theirs: its value there.
    """

    field: str
    ours: Any
    theirs: Any

    def told(self, our_site: str, their_site: str) -> str:
        """The field, both values and both sites."""
        return f"{self.field}: {quoted(self.ours)} at {our_site}, {quoted(self.theirs)} at {their_site}"


def contract_differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = ""
) -> tuple[FieldDifference, ...]:
    """Where two contracts of `contract_of` differ, each time as deep inside as it goes; empty if they agree.

    >>> contract_differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    (FieldDifference(field='a.c', ours=2, theirs=3),)
    """
    found: list[FieldDifference] = []
    for name in sorted({*ours, *theirs}):
        one, other, field = ours.get(name), theirs.get(name), f"{prefix}{name}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += contract_differences(one, other, f"{field}.")
        elif json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
            found.append(FieldDifference(field, one, other))
    return tuple(found)


def by_name(site: Site) -> bool:
    """Whether the federation matches classes by name."""
    return site.federation.classes is not None


class OtherPlansError(ConfigError):
    """The plans digest is not the one that the federation has agreed on."""


def check_agreement(
    site: Site, plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str
) -> str:
    """Make sure that this training is the one the federation agreed on.

    Returns:
        The plans digest of this training: the federation's, if it has agreed on one.

    Raises:
        OtherPlansError: the plans digest is not the federation's.
        ConfigError: the names of the classes, or a class named as labelled, is not the federation's; or the
            site contours no class at all.
    """
    federation = site.federation
    classes = class_names(dataset_json)
    if by_name(site):
        _check_names(federation, classes)
    found = plans_digest(plans, dataset_json, configuration, by_name(site))
    if federation.plans_digest not in ("", found):
        command = f"nnunet-gml plans digest{' --by-name' * by_name(site)}"
        raise OtherPlansError(
            f"plans digest of configuration {configuration} is {found}, "
            f"but federation {federation.name} expects {federation.plans_digest}",
            hint="train the agreed configuration, with the same plans file at every site "
            f"({command} shows the digest of a plans file)",
        )
    _check_labelled(site, classes)
    return found


def _check_names(federation: Federation, classes: tuple[str, ...]) -> None:
    """The dataset has every class of the federation, and no other."""
    if set(classes) != set(federation.classes or ()):
        raise ConfigError(
            f"the dataset's classes are {', '.join(classes)}, "
            f"but federation {federation.name} names {', '.join(federation.classes or ())}",
            hint="dataset.json needs all of them, also those this site never contours; "
            "their numbers may be its own",
        )


def _check_labelled(site: Site, classes: tuple[str, ...]) -> None:
    """What the site is said to contour is some of the dataset's classes."""
    labelled = labelled_by(site.federation.member(site.name), classes)
    unknown = set(labelled) - set(classes)
    if unknown or not labelled:
        raise ConfigError(
            f"labelled of site {site.name} names {', '.join(sorted(unknown)) or 'no class'}, "
            f"but the dataset's classes are {', '.join(classes)}",
            hint=f"mend the names in {site.federation.path}",
        )


def _has_regions(labels: Mapping[str, Any]) -> bool:
    """As nnU-Net decides it: a class of several labels makes all of them regions."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())


def _number(label: Any) -> int:  # noqa: ANN401 - a number, or a list of one number
    return int(label[0]) if isinstance(label, (list, tuple)) else int(label)
