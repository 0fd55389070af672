"""CT-like images from label maps: every grey value is synthetic, only the contours are real.

Tissue is painted from the contours of both raters, half each, so that neither rater's contour can be read
off the image alone. Before that both maps are bent alike, a little, so that no two seeds show one anatomy.
The scanner's kernel and slice thickness mix what lies in a voxel (partial volume); dense bone throws streaks.
Volumes are in the order z (feet to head), y (front to back), x (right to left).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
    maximum_filter1d,
    uniform_filter1d,
)
from skimage.morphology import convex_hull_image
from skimage.transform import iradon, radon

Labels = npt.NDArray[np.uint8]
Volume = npt.NDArray[np.float32]

SPACING_MM = (2.5, 2.0, 2.0)
WINDOW_HU = (-200.0, 400.0)
"""As a reader sets it for soft tissue; nnU-Net's z-score would lose the organs in the range of bone."""
AIR_HU, MUSCLE_HU, FAT_HU = -1000.0, 45.0, 0.0
MARGIN_MM, NECK_MM, GAP_SLICES = 10.0, 42.0, 17
"""Soft tissue reaches so far beyond the hull of all that is contoured, and from the spinal canal."""
CANAL = 19
ORGAN_HU: Mapping[int, float] = {
    1: 130.0,  # brainstem
    2: 160.0,  # spinal cord
    3: 900.0,  # mandible
    **dict.fromkeys((4, 5), -60.0),  # parotids
    **dict.fromkeys((6, 7), 150.0),  # submandibular glands
    **dict.fromkeys((8, 9), 120.0),  # cochleas
    **dict.fromkeys((10, 11), 250.0),  # lenses
    **dict.fromkeys((12, 13), 0.0),  # orbits
    **dict.fromkeys((14, 15), 120.0),  # optic nerves
    **dict.fromkeys((16, 17), 40.0),  # lacrimal glands
    18: 35.0,  # brain
    19: 0.0,  # spinal canal
    **dict.fromkeys((20, 21), -800.0),  # lungs
}
"""In the order of CT's, but several times as far apart: a small network has to learn them in minutes."""
AROUND = (((18,), 6.0, 800.0), ((19,), 7.0, 350.0), ((12, 13, 14, 15), 8.0, -120.0), ((8, 9), 8.0, 900.0))
"""Labels, distance in mm and HU of what surrounds them: skull, vertebrae, fat of the orbits, petrous bone."""
MOST_SHIFT = (1, 2, 2)
MOST_BEND_MM, BEND_WIDTH_MM = 4.0, 25.0
"""Furthest that the deformation moves anything, and how smooth it is (standard deviation)."""
DENSE_HU = 500.0
"""Streaks come from what is denser: the mandible, and the bone around inner ear and brain."""
DIRECTIONS = np.linspace(0, 180, 60, endpoint=False)


@dataclass(frozen=True)
class Scanner:
    """How a site's images look.

    Attributes:
        blur_mm: in-plane and through-plane kernel (standard deviation).
        slice_mm: thickness that one slice averages over.
        noise_hu: standard deviation before the kernel of the noise.
        gain: contrast.
        offset_hu: added to everything.
        bias: largest relative unevenness over the volume.
        streaks_hu: largest change by streaks between and behind dense bone.
    """

    blur_mm: float
    slice_mm: float
    noise_hu: float
    gain: float
    offset_hu: float
    bias: float
    streaks_hu: float = 0.0


def best_shift(reference: Labels, other: Labels) -> tuple[int, int, int]:
    """The shift in voxels that brings one rater's map onto the other's: their crops differ by a few voxels.

    It has the highest overlap of equal labels, as a mean over the labels of the reference.
    """
    counts = np.bincount(reference.ravel(), minlength=256)[1:]
    present = np.flatnonzero(counts)
    best, found = -1.0, (0, 0, 0)
    for z in range(-MOST_SHIFT[0], MOST_SHIFT[0] + 1):
        for y in range(-MOST_SHIFT[1], MOST_SHIFT[1] + 1):
            for x in range(-MOST_SHIFT[2], MOST_SHIFT[2] + 1):
                moved = placed(other, (z, y, x), reference.shape)
                common = np.bincount(reference[moved == reference], minlength=256)[1:]
                overlap = float((common[present] / counts[present]).mean())
                if overlap > best:
                    best, found = overlap, (z, y, x)
    return found


def placed(labels: Labels, offset: tuple[int, int, int], shape: tuple[int, ...]) -> Labels:
    """The map moved by whole voxels, in a grid of another shape; what is new is background."""
    grid = np.zeros(shape, dtype=np.uint8)
    into, out_of = [], []
    for move, edge, length in zip(offset, shape, labels.shape, strict=True):
        start, end = max(0, move), min(edge, length + move)
        into.append(slice(start, end))
        out_of.append(slice(start - move, end - move))
    grid[tuple(into)] = labels[tuple(out_of)]
    return grid


def bent(maps: Sequence[Labels], random: np.random.Generator) -> list[Labels]:
    """Label maps of one grid, moved by the same smooth random field, `MOST_BEND_MM` at most.

    A structure of a few voxels may fall between two: then the field is halved until none is lost.
    """
    sigma = [BEND_WIDTH_MM / mm for mm in SPACING_MM]
    drawn = [gaussian_filter(random.standard_normal(maps[0].shape), sigma, mode="wrap") for _ in SPACING_MM]
    length = np.sqrt(sum(part**2 for part in drawn)).max()
    field = np.stack(
        [part * (MOST_BEND_MM / length / mm) for part, mm in zip(drawn, SPACING_MM, strict=True)]
    )
    grid = np.indices(maps[0].shape)
    while True:
        moved = [map_coordinates(labels, grid + field, order=0, mode="nearest") for labels in maps]
        if all(np.isin(before, after).all() for before, after in zip(maps, moved, strict=True)):
            return moved
        field /= 2


def tissue(labels: Labels, random: np.random.Generator) -> Volume:
    """The anatomy behind one label map, in HU: surroundings first, then every structure.

    The same generator state gives the same muscle and fat.
    """
    mixture = gaussian_filter(random.standard_normal(labels.shape).astype(np.float32), 2.5)
    mixture = 1 / (1 + np.exp(-(mixture / mixture.std() + 0.8) * 3))
    painted: Volume = (FAT_HU + mixture * (MUSCLE_HU - FAT_HU)).astype(np.float32)
    painted[~_body(labels)] = AIR_HU
    for around, reach_mm, hounsfield in AROUND:
        painted[_distance_mm(np.isin(labels, around)) <= reach_mm] = hounsfield
    for value, hounsfield in ORGAN_HU.items():
        painted[labels == value] = hounsfield
    return painted


def _body(labels: Labels) -> npt.NDArray[np.bool_]:
    """Every slice's convex hull (of what is contoured nearby), with a margin, and a round neck."""
    nearby = maximum_filter1d(labels > 0, GAP_SLICES, axis=0)
    hull = np.stack([convex_hull_image(part) if part.any() else part for part in nearby])
    return (_distance_mm(hull) <= MARGIN_MM) | (_distance_mm(labels == CANAL) <= NECK_MM)


def _distance_mm(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    if not inside.any():
        return np.full(inside.shape, np.inf)
    distance: npt.NDArray[np.float64] = distance_transform_edt(~inside, sampling=SPACING_MM)
    return distance


def streaks(anatomy: Volume) -> Volume:
    """What beam hardening leaves in each slice; the largest change outside dense bone is 1.

    Rays through dense bone seem to lose less than in proportion to their way through it; what is missing,
    the square of that way, reconstructed by filtered back-projection: dark between two bones.
    """
    dense = np.clip(anatomy - DENSE_HU, 0, None) / 1000
    left = np.zeros(anatomy.shape, np.float32)
    for number in np.flatnonzero(dense.any(axis=(1, 2))):
        left[number] = -_reconstructed(
            radon(dense[number], DIRECTIONS, circle=False) ** 2, dense[number].shape
        )
    strongest = float(np.abs(left[dense == 0]).max()) if dense.any() else 0.0
    return left / strongest if strongest else left


def _reconstructed(sinogram: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """The slice behind a sinogram; scikit-image puts its middle into the middle of a square."""
    edge = max(shape)
    square = iradon(sinogram, DIRECTIONS, output_size=edge, circle=False)
    y, x = (edge // 2 - length // 2 for length in shape)
    return square[y : y + shape[0], x : x + shape[1]]


def scan(anatomy: Volume, scanner: Scanner, random: np.random.Generator) -> npt.NDArray[np.int16]:
    """The anatomy as one site's scanner shows it."""
    sigma = [scanner.blur_mm / mm for mm in SPACING_MM]
    texture = gaussian_filter(random.standard_normal(anatomy.shape).astype(np.float32), 1.2)
    image = anatomy + 12 * texture / texture.std()
    if scanner.streaks_hu:
        image += scanner.streaks_hu * streaks(anatomy)
    image = gaussian_filter(image, sigma)
    image = uniform_filter1d(image, max(1, round(scanner.slice_mm / SPACING_MM[0])), axis=0)
    field = gaussian_filter(random.standard_normal(anatomy.shape).astype(np.float32), 15)
    image *= 1 + scanner.bias * field / np.abs(field).max()
    noise = gaussian_filter(random.standard_normal(anatomy.shape).astype(np.float32), 0.5)
    image += scanner.noise_hu * noise / noise.std()
    shown = np.clip(scanner.gain * image + scanner.offset_hu, *WINDOW_HU)
    return np.round(shown).astype(np.int16)


def synthesise(ours: Labels, other: Labels, scanner: Scanner, seed: tuple[int, ...]) -> npt.NDArray[np.int16]:
    """A site's image of a patient whose contours by two raters lie on one grid."""
    anatomy = [tissue(labels, np.random.default_rng(seed)) for labels in (ours, other)]
    return scan((anatomy[0] + anatomy[1]) / 2, scanner, np.random.default_rng((*seed, 1)))
