"""Part ``memory``: the peak memory of training steps against stock nnU-Net's, one process for each arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speed_plans import SIZES, plan, planned
from speed_scenes import Scene, each_scene, failures, place, scenes
from speed_settings import Settings, verdict
from speed_steps import STOCK, WORDS
from speed_worker import TOO_LARGE, ask

from nnunet_gml.markdown import markdown_table

PART = "memory"
TITLE = "Peak memory"
ARMS = ("frozen", "low_memory", "mutual")
TARGETS = {"frozen": 1.15, "low_memory": 1.35, "mutual": 2.0}
ESTIMATED_CLASSES = (2, 16, 96)
STEPS = 2
GIB = 1 << 30
ABOUT = """\
The steps of part *steps*, a few in a fresh process for each arm.
"""
ON_GPU = """\
On CUDA (mixed precision and torch.compile, as nnU-Net trains there): the most that tensors held at once, and
what torch had taken from the GPU for them; from the first step on, with what the choice of convolutions
takes.
"""
NO_GPU = """\
There was no GPU, so there is no figure of a GPU's memory here.
"""
ON_CPU = """\
On a CPU: the highest resident memory of the process (float32), beyond what it had before the arm's trainer
was built. A CPU's allocator keeps what it was given, so these ratios say little about a GPU's.
"""
ESTIMATE = """\
**Estimated, not measured**: what `nnunet-gml check` expects on a GPU in mixed precision. It does the steps on
torch's meta device, counts tensors, and adds 1 GiB and 15 % for CUDA.
"""


def measure(settings: Settings) -> dict[str, Any]:
    """The scenes of the steps as nnU-Net trains (on CUDA compiled), and the estimate for the large plans."""
    wanted = [scene for scene in scenes(settings) if scene.compiled == (scene.device == "cuda")]
    found = each_scene(wanted, settings, PART, peaks)
    return {"scenes": found, "estimates": [] if settings.quick else _estimates(settings)}


def peaks(scene: Scene, folder: Path) -> dict[str, Any]:
    """Bytes of each arm, by what was measured; `TOO_LARGE` where memory was too small."""
    arms = {arm: ask(scene.task(folder, (arm,), STEPS)) for arm in (STOCK, *ARMS)}
    return {
        "facts": {STOCK: arms[STOCK]["facts"][STOCK]},
        "peaks": {
            name: TOO_LARGE if found["seconds"][name] == TOO_LARGE else found["memory"]
            for name, found in arms.items()
        },
    }


def _estimates(settings: Settings) -> list[dict[str, Any]]:
    from nnunet_gml.preflight.memory import estimate

    found = []
    for name in ("standard", "resenc-l"):
        plan(SIZES[name], settings.out / PART)
        for classes in ESTIMATED_CLASSES:
            need = estimate(planned(SIZES[name], classes, settings.out / PART))
            found.append({"size": name, "classes": classes, "bytes": asdict(need)})
    return found


def tables(found: Mapping[str, Any]) -> str:
    """The section."""
    by_device = {
        device: [each for each in found["scenes"] if each["device"] == device and "failed" not in each]
        for device in ("cuda", "cpu")
    }
    heads = ["device", "size", "classes", "torch.compile", "arm", "ratio", "target", "", "GiB", "stock's GiB"]
    sections = [ABOUT, ON_GPU if by_device["cuda"] else NO_GPU]
    for device, known in by_device.items():
        if device == "cpu":
            sections.append(ON_CPU)
        if known:
            rows = [row for scene in known for row in memory_rows(scene)]
            sections.append(
                markdown_table([[*heads, "held (stock's)"] if device == "cuda" else heads, *rows])
            )
    sections.append(failures(found))
    if found["estimates"]:
        rows = [row for each in found["estimates"] for row in estimate_rows(each)]
        sections += [
            ESTIMATE,
            markdown_table(
                [["size", "classes", "arm", "estimated ratio", "target", "", "estimated GiB"], *rows]
            ),
        ]
    return "\n".join(filter(None, sections))


def memory_rows(scene: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """One row for each arm; targets are those of a GPU."""
    is_cuda = scene["device"] == "cuda"
    what = "allocated" if is_cuda else "resident"
    stock = scene["peaks"][STOCK]
    for arm in ARMS:
        where, own = [*place(scene), WORDS[arm]], scene["peaks"][arm]
        if TOO_LARGE in (own, stock):
            yield [*where, TOO_LARGE, f"{TARGETS[arm]:.2f}", *["-"] * (4 if is_cuda else 3)]
            continue
        ratio = own[what] / stock[what]
        judged = [f"{TARGETS[arm]:.2f}", verdict(ratio, TARGETS[arm])] if is_cuda else ["- (on GPU)", "-"]
        held = [f"{own['reserved'] / GIB:.2f} ({stock['reserved'] / GIB:.2f})"] if is_cuda else []
        yield [*where, f"{ratio:.2f}", *judged, f"{own[what] / GIB:.2f}", f"{stock[what] / GIB:.2f}", *held]


def estimate_rows(each: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """One row for each arm."""
    for arm in ARMS:
        ratio = each["bytes"][arm] / each["bytes"][STOCK]
        yield [
            SIZES[each["size"]].words,
            str(each["classes"]),
            WORDS[arm],
            f"{ratio:.2f}",
            f"{TARGETS[arm]:.2f}",
            "below" if ratio <= TARGETS[arm] else "above",
            f"{each['bytes'][arm] / GIB:.1f}",
        ]
