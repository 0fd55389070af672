"""A site whose images or contours are unlike the others': its scanner, and how its contours are drawn.

OUT/raw-shifted/DatasetXXX_SITE/ has every image and label of such a site anew, held-out ones, too; the other
sites keep theirs.
"""

from __future__ import annotations

import math
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_gml.planning.planned import raw_description
from nnunet_gml.simulation.raw_files import link
from nnunet_gml.simulation.workspace import slug
from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nnunet_gml.phantom import Style

    Labels = npt.NDArray[np.integer[Any]]


def parse_shifts(entries: Sequence[str]) -> dict[str, Style]:
    """The style of each site named, from ``SITE=NAME=VALUE[,NAME=VALUE]``.

    Raises:
        ConfigError: an entry is not like that, names a site again, or something that no style has.
    """
    from nnunet_gml.phantom import Style

    known = [each.name for each in fields(Style)]
    styles: dict[str, Style] = {}
    for entry in entries:
        site, _, rest = entry.partition("=")
        pairs = [setting.partition("=") for setting in rest.split(",")]
        values = {name: _number(value) for name, _, value in pairs}
        if site in styles or not site or None in values.values() or not values.keys() <= set(known):
            hint = f"name each site once; NAME is one of {', '.join(known)}, and VALUE is a number"
            raise ConfigError(f"{entry!r} is not SITE=NAME=VALUE[,NAME=VALUE]", hint)
        styles[site] = Style(**{name: value for name, value in values.items() if value is not None})
    return styles


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def shift_datasets(datasets: Sequence[str], entries: Sequence[str], out: Path, seed: int) -> tuple[str, ...]:
    """The datasets, with those of shifted sites replaced by new ones; a run that was begun keeps its own.

    Raises:
        ConfigError: an entry cannot be read, or names a site that is not there.
    """
    styles = parse_shifts(entries)
    names = {slug(Path(dataset).name): dataset for dataset in datasets}
    unknown = styles.keys() - names.keys()
    if unknown:
        raise ConfigError(
            f"there is no site {', '.join(sorted(unknown))}", f"the sites are {', '.join(names)}"
        )
    if not (out / "run.json").exists():
        shutil.rmtree(out / "raw-shifted", ignore_errors=True)
    return tuple(
        str(_shifted(Path(dataset), styles[name], out / "raw-shifted", seed)) if name in styles else dataset
        for name, dataset in names.items()
    )


def _shifted(raw: Path, style: Style, folder: Path, seed: int) -> Path:
    target = folder / raw.name
    if target.exists():
        return target
    part = folder / f".part-{raw.name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    ignore = raw_description(raw)["labels"].get("ignore")
    for path in raw.iterdir():
        if path.name in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
            (part / path.name).mkdir()
        else:
            link(part / path.name, path.resolve())
    for path in sorted(raw.glob("images[TS][rs]/*")):
        _rewrite(
            path,
            part / path.parent.name / path.name,
            lambda voxels, mm, name: rescan(voxels, mm, name, style, seed),
        )
    for path in sorted(raw.glob("labels[TS][rs]/*")):
        _rewrite(
            path,
            part / path.parent.name / path.name,
            lambda voxels, mm, name: redraw(voxels, mm, style, ignore),
        )
    part.rename(target)
    return target


def _rewrite(source: Path, target: Path, change: Callable[..., Any]) -> None:
    """Write an image file anew; what cannot be changed is refused as `ConfigError`."""
    import SimpleITK

    image = SimpleITK.ReadImage(str(source))
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise ConfigError(f"{source} has several values for each voxel", "--shift takes one file per channel")
    voxels = SimpleITK.GetArrayFromImage(image)
    changed = SimpleITK.GetImageFromArray(change(voxels, image.GetSpacing()[::-1], source.name))
    changed.CopyInformation(image)
    SimpleITK.WriteImage(changed, str(target))


def rescan(
    voxels: npt.NDArray[Any], spacing_mm: Sequence[float], name: str, style: Style, seed: int
) -> npt.NDArray[np.float32]:
    """The image as the style's scanner shows it, float32; the same for the same seed and file name.

    Noise and offset are in standard deviations of this image's voxels, as nobody knows its unit.
    """
    import numpy as np

    from nnunet_gml.phantom import scan

    unit = float(voxels.std()) or 1.0
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shown: npt.NDArray[np.float32] = (unit * scan(voxels / unit, style, random, spacing_mm)).astype(
        np.float32
    )
    return shown


def redraw(labels: Labels, spacing_mm: Sequence[float], style: Style, ignore: int | None = None) -> Labels:
    """The contours in this style: every one moved by the margin and rounded; between two the nearer wins.

    A class that would vanish keeps its contour, and voxels to be ignored stay such.
    """
    import numpy as np

    if not style.margin_mm and not style.smoothing_mm:
        return labels
    values = [int(value) for value in np.unique(labels) if value not in (0, ignore)]
    drawn, nearest = np.zeros_like(labels), np.full(labels.shape, style.margin_mm)
    for value in values:
        distance = _smoothed_distance(labels == value, spacing_mm, style.smoothing_mm)
        nearer = distance < nearest
        drawn[nearer], nearest[nearer] = value, distance[nearer]
    for value in values:
        if not (drawn == value).any():
            drawn[labels == value] = value
    if ignore is not None:
        drawn[labels == ignore] = ignore
    return drawn


def _smoothed_distance(
    inside: npt.NDArray[np.bool_], spacing_mm: Sequence[float], smoothing_mm: float
) -> npt.NDArray[np.float64]:
    """Signed distance to the surface in mm, negative inside, rounded."""
    from scipy.ndimage import distance_transform_edt

    from nnunet_gml.anatomy import smooth

    outwards, inwards = (distance_transform_edt(side, sampling=spacing_mm) for side in (~inside, inside))
    return smooth(outwards - inwards, smoothing_mm, spacing_mm)
