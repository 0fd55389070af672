"""Part ``steps``: the time of a training step against stock nnU-Net's, and what follows for a whole run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import Figures, figures
from speed_scenes import Scene, each_scene, failures, place, scenes
from speed_settings import Settings, span, verdict
from speed_worker import TOO_LARGE, VALIDATION, Task, ask

from nnunet_gml.markdown import markdown_table
from peer_sync.gossip import round_number

PART = "steps"
TITLE = "Step time"
STOCK = "stock"
WORDS = {
    "alone": "no peer (λ = 0)",
    "frozen": "frozen",
    "mutual": "mutual",
    "low_memory": "mutual, low memory",
    "contrastive": "contrastive",
}
"""The arms beside stock, and what the tables call them."""
TARGETS = {"alone": 1.01, "frozen": 1.40, "mutual": 2.10}
LIMITS = {"alone": 1.0, "frozen": 1.33, "mutual": 2.0, "low_memory": 2.33, "contrastive": 2.0}
WHOLE_RUN_TARGET = 1.25
"""On GPU."""
ABOUT = """\
Random data through nnU-Net's real `train_step` of the real trainers, on plans that nnU-Net's own planners
made (for 2 classes; for 96 nnU-Net would plan a smaller patch). No dataset, no loading, no augmentation:
where a GPU waits for the processors that augment, the ratios are smaller. The reference has organs in 8 % of
the voxels. The networks are not trained, but their background bias is such that they see organs in 2 % more,
elsewhere; early in a training they see more, and [the loss costs more](distillation.md). The peer is trusted
in every class; learning rates are 0, so that no step changes what is measured.

All arms take a step in turn, in another order each time, in one process; ratios are medians of the ratios to
stock's step of the same turn (least to most). On a CPU: CPU seconds of one thread, float32, and no
torch.compile, which nnU-Net does not use there. On CUDA: wall time, mixed precision, as nnU-Net trains.
*Limit*: one more forward pass for *frozen*, where a backward pass costs two; everything twice for *mutual*
and *contrastive*; both for *low memory*.
"""
WHOLE_RUN = """\
**A whole default run, computed**, not measured: {epochs} epochs of {steps} steps and {validations} validation
steps, of which {with_peer} epochs have a peer (one comes every {epochs_per_round} epochs after the first
{warmup_epochs}, and stays for {mutual_epochs}), with the steps and stock's validation step above. Without
what a round costs beside its steps (part *stall*), and without loading. *Limit*: the same sum with the limits
of the steps.
"""


def measure(settings: Settings) -> dict[str, Any]:
    """Steps of all sizes, on the CPU and, where it was asked for, on CUDA; continues where it stopped."""

    def work(scene: Scene, folder: Path) -> dict[str, Any]:
        return fit(scene.task(folder, (STOCK, *WORDS, VALIDATION), settings.repetitions))

    return {"scenes": each_scene([*scenes(settings)], settings, PART, work)}


def fit(task: Task) -> dict[str, Any]:
    """Do a task; an arm for which there was no room beside the others is done again, beside stock alone."""
    found = ask(task)
    for name, seconds in found["seconds"].items():
        if seconds == TOO_LARGE and name in WORDS:
            again = ask(replace(task, arms=(STOCK, name)))
            found["seconds"][name] = again["seconds"][name]
            found.setdefault("beside_stock_alone", {})[name] = again["seconds"][STOCK]
    return found


def ratios(scene: Mapping[str, Any], arm: str) -> Figures | None:
    """Of an arm's step to stock's of the same turn; None where memory was too small for one of them."""
    own = scene["seconds"][arm]
    stock = scene.get("beside_stock_alone", {}).get(arm, scene["seconds"][STOCK])
    if TOO_LARGE in (own, stock):
        return None
    return figures([a / b for a, b in zip(own, stock, strict=True)])


def whole_run(scene: Mapping[str, Any], with_peer: float, alone: float) -> float:
    """Ratio of a whole default run to stock's, from the ratios of its steps.

    By hand: of 1000 epochs 475 have a peer; with validation steps as long as nothing and steps twice as long
    that is 1.475; where an epoch's 50 validation steps take as long as 50 of its 250 steps, 1.396.

    >>> facts = {"num_epochs": 1000, "num_iterations_per_epoch": 250, "num_val_iterations_per_epoch": 50}
    >>> facts |= {"warmup_epochs": 50, "epochs_per_round": 10, "mutual_epochs": 5}
    >>> def scene(validation):
    ...     return {"facts": {"mutual": facts}, "seconds": {"stock": [1.0], "validation": [validation]}}
    >>> round(whole_run(scene(0.0), 2.0, 1.0), 3), round(whole_run(scene(1.0), 2.0, 1.0), 3)
    (1.475, 1.396)
    """
    facts = scene["facts"]["mutual"]
    share = epochs_with_peer(facts) / facts["num_epochs"]
    step, validation = (figures(scene["seconds"][name]).median for name in (STOCK, VALIDATION))
    steps, validations = facts["num_iterations_per_epoch"], facts["num_val_iterations_per_epoch"]
    longer = share * with_peer + (1 - share) * alone - 1
    return float(1 + longer * steps * step / (steps * step + validations * validation))


def epochs_with_peer(facts: Mapping[str, int]) -> int:
    """Of a default training, if every round brings a peer and it does not stay for longer than a round."""
    last = round_number(facts["num_epochs"] - 1, facts["warmup_epochs"], facts["epochs_per_round"])
    return last * min(facts["mutual_epochs"], facts["epochs_per_round"])


def tables(found: Mapping[str, Any]) -> str:
    """The section."""
    known = [scene for scene in found["scenes"] if "failed" not in scene]
    heads = ["device", "size", "classes", "torch.compile", "arm"]
    steps = [row for scene in known for row in step_rows(scene)]
    runs = [row for scene in known for row in run_rows(scene)]
    sections = [
        ABOUT,
        markdown_table([[*heads, "ratio", "target", "", "limit", "step"], *steps]),
        failures(found),
        *(whole_run_words(scene) for scene in known[:1]),
        markdown_table([[*heads, "whole run", "target", "", "limit"], *runs]),
    ]
    return "\n".join(filter(None, sections))


def whole_run_words(scene: Mapping[str, Any]) -> str:
    """What the sum is made of."""
    facts = scene["facts"]["mutual"]
    return WHOLE_RUN.format(
        epochs=facts["num_epochs"],
        steps=facts["num_iterations_per_epoch"],
        validations=facts["num_val_iterations_per_epoch"],
        with_peer=epochs_with_peer(facts),
        epochs_per_round=facts["epochs_per_round"],
        warmup_epochs=facts["warmup_epochs"],
        mutual_epochs=facts["mutual_epochs"],
    )


def step_rows(scene: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """One row for each arm."""
    for arm, words in WORDS.items():
        ratio, own = ratios(scene, arm), scene["seconds"][arm]
        where = [*place(scene), words]
        target, limit = TARGETS.get(arm), LIMITS.get(arm)
        ends = [f"{target:.2f}" if target else "-", "-", f"{limit:g}" if limit else "-"]
        if ratio is None:
            yield [*where, TOO_LARGE, *ends, "-"]
            continue
        if target:
            ends[1] = verdict(ratio.median, target)
        yield [*where, span(ratio, "{:.3f}"), *ends, span(figures(own), "{:.3f}", " s")]


def run_rows(scene: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """One row for each arm with a peer."""
    alone = ratios(scene, "alone")
    for arm in ("frozen", "mutual", "contrastive"):
        ratio = ratios(scene, arm)
        if ratio is None or alone is None or scene["seconds"][VALIDATION] == TOO_LARGE:
            continue
        whole = whole_run(scene, ratio.median, alone.median)
        limit = whole_run(scene, LIMITS[arm], 1.0) if arm in LIMITS else None
        is_judged = scene["device"] == "cuda"
        yield [
            *place(scene),
            WORDS[arm],
            f"{whole:.3f}",
            f"{WHOLE_RUN_TARGET:.2f}" if is_judged else "- (on GPU)",
            verdict(whole, WHOLE_RUN_TARGET) if is_judged else "-",
            f"{limit:.2f}" if limit else "-",
        ]
