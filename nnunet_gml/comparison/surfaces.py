"""How far two contours of one organ are apart, measured on their surfaces by MONAI."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
PERCENTILE = 95


class SurfaceScores(NamedTuple):
    """Normalised surface Dice, 0 to 1, and the 95th percentile of the Hausdorff distance in mm."""

    nsd: float
    hd95_mm: float


def surface_scores(
    reference: Mask, predicted: Mask, spacing_mm: Sequence[float], tolerance_mm: float
) -> SurfaceScores:
    r"""Compare two contours that both show the organ.

    .. math:: NSD = \frac{|\{s \in S : d(s, T) \le \tau\}| + |\{t \in T : d(t, S) \le \tau\}|}{|S| + |T|}

    with :math:`S` and :math:`T` the two surfaces, :math:`|\cdot|` their area in mm² (marching cubes on voxel
    corners: a voxel is a box, not a point, so that thick slices and organs of few voxels are measured fairly)
    and :math:`\tau` the tolerance. HD95 is the larger of the two directed 95th percentiles of the distances
    from boundary voxel to boundary voxel, each voxel counted once.

    Args:
        reference: ``(z, y, x)``, or ``(y, x)`` for a flat image: there a surface is a line.
        predicted: same shape.
        spacing_mm: of one voxel, in the order of the axes.
        tolerance_mm: 0 or more.

    Raises:
        ValueError: one of the masks is empty: nothing is then defined.

    References:
        Nikolov et al. (2021), J Med Internet Res 23(7), e26151: the definition with areas; `monai.metrics`.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if not (reference.any() and predicted.any()):
        raise ValueError("a surface distance needs two contours, but one mask is empty")
    ours, theirs = (
        torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (predicted, reference)
    )
    spacing = [float(length) for length in spacing_mm]
    with warnings.catch_warnings():  # MONAI 1.5 and 1.6 call a function of theirs in a way they call outdated
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        nsd = compute_surface_dice(
            ours, theirs, [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True
        )
        hd95 = compute_hausdorff_distance(
            ours, theirs, include_background=True, percentile=PERCENTILE, spacing=spacing
        )
    return SurfaceScores(float(nsd), float(hd95))
