"""One process of the benchmark of steps: some arms in turn, on one plan; prints one line of JSON.

A process of its own, because torch's compiled code, memory and threads are a process's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from peer_sync.site import SITE_VARIABLE

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # builders of sites live there

MARK = "speed-worker "
STEPS_BEFORE = 4
"""Steps that do not count: they compile, choose convolutions, measure the pull, make the momentum."""
TOO_LARGE = "out of memory"
VALIDATION = "validation"


@dataclass(frozen=True)
class Task:
    """What one process does.

    Attributes:
        folder: with the plans, see `speed_plans`.
        size: of `speed_plans.SIZES`.
        classes: foreground classes.
        device: ``cpu`` or ``cuda``.
        compiled: with torch.compile, which nnU-Net does not do on a CPU.
        arms: of `speed_trainers.ARMS`, and `VALIDATION`: stock's validation step.
        repetitions: of every arm, in turn.
    """

    folder: str
    size: str
    classes: int
    device: str
    compiled: bool
    arms: tuple[str, ...]
    repetitions: int


def ask(task: Task) -> dict[str, Any]:
    """Do a task in a process of its own.

    Returns:
        ``seconds``: of each arm, one number for each repetition, or `TOO_LARGE`. ``memory``: most bytes,
        ``resident`` beyond what there was before the arms were built, and on CUDA ``allocated`` in tensors
        and ``reserved`` by torch. ``facts``: of each arm, see `speed_trainers.Step.facts`. ``foreground``: of
        the last arm.

    Raises:
        RuntimeError: the process failed; with what it wrote last.
    """
    words = [sys.executable, __file__, json.dumps(asdict(task))]
    variables = {name: value for name, value in os.environ.items() if name != SITE_VARIABLE}
    variables["nnUNet_compile"] = "t" if task.compiled else "f"
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        raise RuntimeError(f"{task} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return found


def work(task: Task) -> dict[str, Any]:
    """Build the arms, take their steps in turn, and tell."""
    import torch
    from courier_kit import build_sites
    from speed_plans import SIZES, planned, use_folders
    from speed_trainers import ARMS, STOCK, Step, random_batch

    torch.manual_seed(0)
    _as_nnunets_command_does(task)
    use_folders(Path(task.folder))
    plan = planned(SIZES[task.size], task.classes, Path(task.folder))
    with TemporaryDirectory() as keys:
        site = build_sites(Path(keys))["north"]
    batch = random_batch(plan, task.device)
    before = _resident_bytes("VmRSS")
    steps = {name: Step(ARMS[name], plan, batch, site, task.device) for name in task.arms if name in ARMS}
    works: dict[str, Callable[[], None]] = dict(steps)
    if VALIDATION in task.arms:
        works[VALIDATION] = steps[STOCK].validate
    seconds = in_turn(works, task.repetitions, task.device)
    memory = {"resident": _resident_bytes("VmHWM") - before, **_gpu_bytes(task.device)}
    return {
        "seconds": seconds,
        "memory": memory,
        "facts": {name: step.facts() for name, step in steps.items()},
        "foreground": [*steps.values()][-1].foreground(),
    }


def in_turn(
    works: Mapping[str, Callable[[], None]], repetitions: int, device: str
) -> dict[str, list[float] | str]:
    """Run all, then all again, in another order each time: what disturbs the machine disturbs all alike.

    Returns:
        For each: seconds of every run after `STEPS_BEFORE` that do not count (CPU seconds of one thread, or
        wall time on CUDA); `TOO_LARGE` for one that ran out of memory, and is left out from there on.
    """
    import torch
    from speed_trainers import TooLargeError

    found: dict[str, list[float] | str] = {name: [] for name in works}
    order = Random(0)  # noqa: S311
    for repetition in range(STEPS_BEFORE + repetitions):
        for name in order.sample([*works], len(works)):
            spent = found[name]
            if isinstance(spent, str):
                continue
            try:
                seconds = _seconds(works[name], device)
            except (torch.OutOfMemoryError, TooLargeError):
                found[name] = TOO_LARGE
                continue
            if repetition >= STEPS_BEFORE:
                spent.append(seconds)
    return found


def _seconds(each: Callable[[], None], device: str) -> float:
    import torch

    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    each()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _as_nnunets_command_does(task: Task) -> None:
    """Threads and cuDNN; and a compiler that gives up is an error, not a slow step that looks compiled."""
    import torch
    from torch._dynamo import config

    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = task.device == "cuda"
    config.recompile_limit = 64
    config.fail_on_recompile_limit_hit = True


def _resident_bytes(what: str) -> int:
    """``VmRSS`` of this process now, or ``VmHWM`` at most so far."""
    from measuring import MEBIBYTE_KIB, memory_mib

    return int(memory_mib(os.getpid(), what) * MEBIBYTE_KIB * 1024)


def _gpu_bytes(device: str) -> dict[str, int]:
    """Most bytes so far, in tensors and held by torch; nothing on a CPU."""
    import torch

    if device != "cuda":
        return {}
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def main(words: Sequence[str]) -> int:
    """Do one task."""
    task = Task(**{**json.loads(words[0]), "arms": tuple(json.loads(words[0])["arms"])})
    sys.stdout.write(f"\n{MARK}{json.dumps(work(task))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
