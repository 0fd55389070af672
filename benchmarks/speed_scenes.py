"""Where steps are measured: size, classes, device, compiler; an interrupted call is continued."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from speed_plans import SIZES, plan
from speed_settings import Settings, continued
from speed_worker import Task

CLASSES, QUICK_CLASSES = (2, 16, 96), (2,)
LARGE_SIZES, QUICK_SIZES = ("standard", "resenc-l"), ("small",)


@dataclass(frozen=True)
class Scene:
    """What one table row's first cells say.

    Attributes:
        size: of `speed_plans.SIZES`.
        classes: foreground classes.
        device: ``cpu`` or ``cuda``.
        compiled: with torch.compile.
    """

    size: str
    classes: int
    device: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.size}-{self.classes}-{self.device}-{'compiled' if self.compiled else 'eager'}"

    def task(self, folder: Path, arms: Sequence[str], repetitions: int) -> Task:
        """For a process of its own."""
        return Task(
            str(folder), self.size, self.classes, self.device, self.compiled, tuple(arms), repetitions
        )


def each_scene(
    wanted: Sequence[Scene], settings: Settings, part: str, work: Callable[[Scene, Path], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Do the work for every scene, on its plans; one that fails is noted with its last words."""
    folder, found, files = settings.out / part, [], []
    for scene in wanted:
        sys.stderr.write(f"speed: {part} {scene} ...\n")
        plan(SIZES[scene.size], folder, settings.quick)
        files.append(folder / f"{scene}-{settings.repetitions}.json")
        try:
            measured = continued(files[-1], partial(work, scene, folder))
        except RuntimeError as error:
            measured = {"failed": str(error).strip().splitlines()[-1]}
        found.append({**asdict(scene), **measured})
    for file in files:
        file.unlink(missing_ok=True)
    return found


def scenes(settings: Settings) -> Iterator[Scene]:
    """The small configuration on the CPU; on CUDA the large ones, compiled and not.

    >>> len([*scenes(Settings(Path(), False, 5, "cpu"))]), len([*scenes(Settings(Path(), False, 5, "cuda"))])
    (3, 15)
    """
    classes = QUICK_CLASSES if settings.quick else CLASSES
    yield from (Scene("small", number, "cpu", False) for number in classes)
    if settings.device == "cuda":
        for size in QUICK_SIZES if settings.quick else LARGE_SIZES:
            for compiled in (True, False):
                yield from (Scene(size, number, "cuda", compiled) for number in classes)


def failures(found: Mapping[str, Any]) -> str:
    """The scenes that failed, with their last words; empty where none did."""
    failed = [scene for scene in found["scenes"] if "failed" in scene]
    return "".join(
        f"- failed: {scene['size']}, {scene['classes']} classes, {scene['device']}: {scene['failed']}\n"
        for scene in failed
    )


def place(scene: Mapping[str, Any]) -> list[str]:
    """Device, size, classes and compiler, for a row."""
    million = scene["facts"]["stock"]["parameters"] / 1e6
    return [
        scene["device"].upper(),
        f"{SIZES[scene['size']].words}, {million:.1f} M",
        str(scene["classes"]),
        "yes" if scene["compiled"] else "no",
    ]
