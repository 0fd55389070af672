"""How long an epoch takes: a few real training steps, in a process of its own that leaves nothing behind.

The trainer is built as nnU-Net builds it, without a site (so stock nnU-Net trains), on fold all, with a
results folder that is thrown away. Steps include the loading of their data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from nnunet_gml.planning.planned import Planned
from peer_sync.doctor.findings import OK, WARNING, Result
from peer_sync.site import SITE_VARIABLE

MAX_SECONDS = 900.0
MARK = "nnunet-gml pace "
WITH_A_PEER = {
    "stock": "a peer costs hardly any time",
    "frozen": "epochs with a peer take about a third longer",
    "low_memory": "epochs with a peer take somewhat more than twice as long",
    "mutual": "epochs with a peer take about twice as long",
}
"""From what is computed: a backward pass costs about two forward passes."""


@dataclass(frozen=True)
class Pace:
    """What the steps have shown.

    Attributes:
        device: ``cuda`` or ``cpu``.
        step_seconds: median of the training steps after a first one, which prepares and compiles.
        validation_seconds: of one validation step after a first one.
        steps: training steps in an epoch.
        validation_steps: validation steps in an epoch.
        epochs: epochs of the whole training.
        gpu_bytes: most memory that torch reserved on the GPU; 0 on a CPU.
    """

    device: str
    step_seconds: float
    validation_seconds: float
    steps: int
    validation_steps: int
    epochs: int
    gpu_bytes: int

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch without a peer."""
        return self.steps * self.step_seconds + self.validation_steps * self.validation_seconds


def check_pace(plan: Planned, trainer: str, way: str, steps: int) -> Result:
    """Run the steps, and tell what an epoch and the whole training take.

    Args:
        plan: what is trained.
        trainer: name of the trainer's class.
        way: what it does with a peer, one of `nnunet_gml.preflight.machine.WAYS`.
        steps: training steps, after a first one that does not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables = {name: value for name, value in os.environ.items() if name != SITE_VARIABLE}
        words = [plan.dataset, plan.configuration, plan.plans_name, trainer, str(steps)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, *words],
                env={**variables, "nnUNet_results": folder},
                capture_output=True,
                text=True,
                check=False,
                timeout=MAX_SECONDS,
            )
        except subprocess.TimeoutExpired:
            advice = (
                f"{steps} training steps did not end within {MAX_SECONDS:.0f} s. Is this the right machine?"
            )
            return Result(WARNING, "no end", f"an end within {MAX_SECONDS:.0f} s", advice)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
        advice = "A training would most likely fail in the same way. Please look into its first words."
        return Result(WARNING, f"{steps} training steps failed: {last}", "steps that work", advice)
    return _told(Pace(**json.loads(lines[-1].removeprefix(MARK))), way, steps)


def _told(pace: Pace, way: str, steps: int) -> Result:
    days = pace.epochs * pace.epoch_seconds / 86400
    memory = f", {pace.gpu_bytes / 2**30:.1f} GiB on the GPU" if pace.gpu_bytes else ""
    return Result(
        OK,
        f"about {pace.epoch_seconds:.0f} s an epoch ({pace.step_seconds:.2f} s a step, {pace.device}, "
        f"{steps} steps{memory}), {days:.1f} days for {pace.epochs} epochs; {WITH_A_PEER[way]}",
    )


def measure(trainer: Any, steps: int) -> Pace:  # noqa: ANN401 - nnU-Net's trainer, not typed
    """Do the steps with a trainer that nobody has initialised."""
    import torch

    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    training, validation = trainer.get_dataloaders()
    trainer.network.train()
    step = _median_seconds(lambda: trainer.train_step(next(training)), steps)
    trainer.network.eval()
    with torch.no_grad():
        validating = _median_seconds(lambda: trainer.validation_step(next(validation)), 1)
    for loader in (training, validation):
        if hasattr(loader, "_finish"):  # it has processes of its own
            loader._finish()
    is_cuda = trainer.device.type == "cuda"
    return Pace(
        trainer.device.type,
        step,
        validating,
        trainer.num_iterations_per_epoch,
        trainer.num_val_iterations_per_epoch,
        trainer.num_epochs,
        torch.cuda.max_memory_reserved() if is_cuda else 0,
    )


def _median_seconds(work: Callable[[], object], times: int) -> float:
    """Of all but the first; each returns its loss to the CPU, so nothing is left running."""
    spent = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return median(spent[1:])


def main(words: list[str]) -> int:
    """Build the trainer as ``nnUNetv2_train`` does, measure, and print one line."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    dataset, configuration, plans, name, steps = words
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count() or 1)
    trainer = get_trainer_from_args(dataset, configuration, "all", name, plans, device=device)
    sys.stdout.write(f"{MARK}{json.dumps(asdict(measure(trainer, int(steps))))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
