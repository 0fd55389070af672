"""A synthetic head and neck for three sites, each with a scanner and a contouring style of its own.

Image and label are both read off the same formulas (`nnunet_gml.anatomy`), so that they always fit
each other. The two parotids are one class, and so are the eyes: nnU-Net mirrors patches along
every axis during training, and a symmetrical head cannot tell its left side from its right.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunet_gml.anatomy import SHAPE, SPACING_MM, Volume, patient, smooth
from peer_sync.errors import ConfigError

ORGANS = {"brainstem": 1, "spinal-cord": 2, "mandible": 3, "parotids": 4, "eyes": 5}
"""Organ names and label values; where two contours overlap the later organ wins."""


@dataclass(frozen=True)
class Style:
    """What makes a site's data its own: the scanner, and how its contours are drawn.

    ``margin_mm`` moves every contour outwards (or, negative, inwards); ``smoothing_mm`` rounds it.
    """

    blur_mm: float = 0.0
    noise: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    bias: float = 0.0
    margin_mm: float = 0.0
    smoothing_mm: float = 0.0


STYLES: Mapping[str, Style] = {
    "north": Style(blur_mm=1.0, noise=0.03, gain=1.0, offset=0.0, bias=0.05, margin_mm=0.0, smoothing_mm=0.0),
    "east": Style(blur_mm=2.5, noise=0.02, gain=0.7, offset=0.4, bias=0.15, margin_mm=1.2, smoothing_mm=2.5),
    "south": Style(blur_mm=1.5, noise=0.06, gain=1.3, offset=-0.2, bias=0.25, margin_mm=-0.8, smoothing_mm=1),
}
"""The three built-in sites."""


def write_dataset(
    folder: Path, dataset_id: int, site: str, seed: int, training_cases: int, test_cases: int
) -> Path:
    """Write one site's raw dataset in nnU-Net's layout and return its folder.

    Training and held-out cases are different patients, and no two sites share one.
    The same arguments always give the same voxels.

    Raises:
        ConfigError: the site is not one of `STYLES`.
    """
    if site not in STYLES:
        raise ConfigError(f"the phantom has no site {site!r}", f"the sites are {', '.join(STYLES)}")
    target = folder / f"Dataset{dataset_id:03d}_{site}"
    for number in range(training_cases + test_cases):
        suffix = "Tr" if number < training_cases else "Ts"
        image, label = make_case(site, seed, number)
        name = f"{site}_{number:03d}"
        _write_nifti(image, target / f"images{suffix}" / f"{name}_0000.nii.gz")
        _write_nifti(label, target / f"labels{suffix}" / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "synthetic"},
        "labels": {"background": 0, **ORGANS},
        "numTraining": training_cases,
        "file_ending": ".nii.gz",
        "description": f"Computed head and neck phantom, site {site}, seed {seed}: no patient data",
    }
    (target / "dataset.json").write_text(json.dumps(description, indent=1) + "\n")
    return target


def make_case(site: str, seed: int, number: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Image and label of one patient of one site, in the order z, y, x."""
    style = STYLES[site]
    random = np.random.default_rng([seed, zlib.crc32(site.encode()), number])
    someone = patient(random)
    image = scan(someone.tissue, style, random)
    return np.round(1000 * image).astype(np.int16), contour(someone.organs, style)


def contour(distances: Mapping[str, Volume], style: Style) -> npt.NDArray[np.uint8]:
    """Draw every organ where its distance to the surface, rounded by the style, is below the margin."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    for organ, value in ORGANS.items():
        label[smooth(distances[organ], style.smoothing_mm) < style.margin_mm] = value
    return label


def scan(
    tissue: Volume, style: Style, random: np.random.Generator, spacing_mm: Sequence[float] = SPACING_MM
) -> Volume:
    """The tissue as this site's scanner shows it: blurred, uneven, noisy, in its own grey values."""
    image = smooth(tissue, style.blur_mm, spacing_mm)
    if style.bias:
        field = smooth(random.standard_normal(tissue.shape), 60.0, spacing_mm)
        image = image * (1 + style.bias * field / np.abs(field).max())
    noisy: Volume = image + style.noise * random.standard_normal(tissue.shape)
    return style.gain * noisy + style.offset


def _write_nifti(voxels: npt.NDArray[np.generic], path: Path) -> None:
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_MM[::-1])
    SimpleITK.WriteImage(image, str(path))
