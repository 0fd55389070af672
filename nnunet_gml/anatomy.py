"""One patient of the phantom: a head and neck made of ellipsoids and tubes.

Nothing here is a grid operation: shapes are formulas of the (bent) coordinates, in millimetres,
in the order z, y, x: from the feet up, from the nose back, from right to left. A shape is a
volume of distances to its surface, negative inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

Volume = npt.NDArray[np.float64]
Vector = tuple[float, float, float]

SHAPE = (32, 32, 32)
SPACING_MM: Vector = (4.5, 4.5, 4.5)

MAX_TURN_DEGREES = 7.0
MAX_SHIFT_MM = 5.0
MAX_BEND_MM = 4.0


@dataclass(frozen=True)
class Patient:
    """Tissue before any scanner (air 0, muscle 0.45, skull 0.85), and each organ's distances in mm."""

    tissue: Volume
    organs: dict[str, Volume]


def patient(random: np.random.Generator) -> Patient:
    """A new patient: pose, size, smooth deformation and the size of every organ are drawn."""
    points = _bent_coordinates(random)
    organs = _organs(points, random)
    return Patient(_tissue(points, organs, random), organs)


def smooth(volume: Volume, sigma_mm: float, spacing_mm: Sequence[float] = SPACING_MM) -> Volume:
    """Gaussian filter with a width in mm; 0 leaves the volume as it is."""
    if sigma_mm == 0:
        return volume
    smoothed: Volume = gaussian_filter(volume, [sigma_mm / spacing for spacing in spacing_mm], mode="nearest")
    return smoothed


def _bent_coordinates(random: np.random.Generator) -> Volume:
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    points: Volume = np.stack(np.meshgrid(*axes, indexing="ij"))
    bends = np.stack([smooth(random.standard_normal(SHAPE), 20.0) for _ in SHAPE])
    points = points + bends * (MAX_BEND_MM / np.abs(bends).max())
    turn = Rotation.from_euler("zyx", random.uniform(-1, 1, 3) * MAX_TURN_DEGREES, degrees=True)
    points = np.einsum("ij,jzyx->izyx", turn.as_matrix(), points)
    size = random.uniform(0.93, 1.07, (3, 1, 1, 1))
    shift = random.uniform(-1, 1, (3, 1, 1, 1)) * MAX_SHIFT_MM
    bent: Volume = points / size - shift
    return bent


def _ellipsoid(points: Volume, centre: Vector, radii: Vector) -> Volume:
    scaled = (points - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    distance: Volume = (np.sqrt((scaled**2).sum(axis=0)) - 1) * min(radii)
    return distance


def _pair(points: Volume, centre: Vector, radii: Vector) -> Volume:
    """The same ellipsoid on both sides of the head."""
    z, y, x = centre
    left_and_right = _ellipsoid(points, (z, y, x), radii), _ellipsoid(points, (z, y, -x), radii)
    return np.minimum(*left_and_right)


def _tube(points: Volume, top_mm: float, radius_mm: float) -> Volume:
    """A tube downwards from ``top_mm`` along the curve of the neck."""
    z, y, x = points
    middle = 24 + 0.0012 * (z - 20) ** 2
    distance: Volume = np.maximum(np.hypot(y - middle, x) - radius_mm, z - top_mm)
    return distance


def _mandible(points: Volume, size: float) -> Volume:
    """A horseshoe open to the back, with a branch rising at both ends."""
    z, y, x = points
    arch = np.hypot((y + 8) / 1.25, x) - 38 * size
    low = np.maximum(np.abs(z + 34) - 11 * size, y - 8)
    branch = np.maximum(np.abs(z + 22) - 24 * size, np.abs(y - 2) - 11)
    distance: Volume = np.maximum(np.abs(arch) - 6.5 * size, np.minimum(low, branch))
    return distance


def _organs(points: Volume, random: np.random.Generator) -> dict[str, Volume]:
    size = random.uniform(0.9, 1.12, 5)
    return {
        "brainstem": _ellipsoid(points, (14, 20, 0), tuple(size[0] * np.array([27, 16, 17]))),
        "spinal-cord": _tube(points, -14, 10.0 * size[1]),
        "mandible": _mandible(points, size[2]),
        "parotids": _pair(points, (-4, 14, 49), tuple(size[3] * np.array([23, 19, 14]))),
        "eyes": _pair(points, (22, -48, 27), tuple(size[4] * np.array([15, 15, 15]))),
    }


def _tissue(points: Volume, organs: dict[str, Volume], random: np.random.Generator) -> Volume:
    """Paint one structure over the other, from the outside in; edges are as soft as a voxel."""
    skull = _ellipsoid(points, (36, 6, 0), (62, 70, 58))
    brain = skull + 7
    neck = np.maximum(_ellipsoid(points, (-40, 14, 0), (400, 52, 50)), points[0] - 10)
    layers = [
        (np.minimum(_ellipsoid(points, (28, 2, 0), (84, 82, 68)), neck), 0.45),
        (np.maximum(skull, 4 - points[0]), 0.85),
        (np.maximum(brain, 10 - points[0]), 0.50),
        (_ellipsoid(points, (-18, -36, 0), (11, 24, 17)), 0.05),
        (_tube(points, -6, 19.0), 0.85),
        (_tube(points, -6, 14.5), 0.30),
        (organs["brainstem"] - 3, 0.30),
        (organs["brainstem"], 0.70),
        (organs["spinal-cord"], 1.05),
        (organs["parotids"], 0.15),
        (organs["eyes"], 1.60),
        (organs["mandible"], 1.20),
    ]
    tissue = np.zeros(SHAPE)
    for distance, value in layers:
        inside = np.clip(0.5 - distance / 4.0, 0, 1)
        tissue += inside * (value * random.uniform(0.95, 1.05) - tissue)
    return tissue
