"""One process of the benchmark of stalls: a real trainer lives through rounds with a real courier.

The trainer is `nnUNetTrainerGML` on random data of the plan's shape; its hooks are called in nnU-Net's order,
one training step per epoch. A round begins after every epoch. The peer is a site with a server process of its
own, which offers our weights, moved by 1 %, anew for every round. Prints one line of JSON.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from speed_couriers import led_through_lines, served_sites
from speed_plans import PLANNED_FOR, SIZES, planned, use_folders
from speed_stages import Stages
from speed_trainers import Arm, move, new_trainer, random_batch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # a peer's offer is made there

from nnunet_kit import offer_network

from nnunet_gml import gate, progress_picture, weights
from nnunet_gml.installed import trainers_folder
from nnunet_gml.planning.planned import Planned
from nnunet_gml.planning.plans import plans_digest
from peer_sync.server.process import ServerProcess
from peer_sync.site import SITE_VARIABLE, Site

Trainer = Any
"""nnU-Net's, which is not typed."""
US, PEER = "north", "south"
TRAINER = "stall=nnUNetTrainerGML,warmup_epochs=1,epochs_per_round=1,mutual_epochs=1,uses_trust=false"
"""A round after every epoch. The networks are not trained: by trust, none would be taken in."""
STOCK_STEPS = 4
"""The first does not count."""
POLL_SECONDS, SETTLE_SECONDS, WAIT_SECONDS = 0.05, 0.5, 550.0


def main(words: Sequence[str]) -> int:
    """Do one task, a JSON object made of a `speed_stall.Task`."""
    task = json.loads(words[0])
    prepare_process(task)
    with redirect_stdout(sys.stderr):
        found = work(task)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def prepare_process(task: Mapping[str, Any]) -> None:
    """Folders and trainers as nnU-Net's command has them; one thread, no torch.compile."""
    use_folders(Path(task["folder"]))
    os.environ["nnUNet_extTrainer"], os.environ["nnUNet_compile"] = str(trainers_folder()), "f"
    torch.manual_seed(0)
    torch.set_num_threads(1)


def work(task: Mapping[str, Any]) -> dict[str, Any]:
    """Live through a warm-up round and those that count."""
    plan = smaller_patch(planned(SIZES[task["size"]], PLANNED_FOR, Path(task["folder"])), task["patch"])
    with TemporaryDirectory(dir=task["folder"]) as own, federation(Path(own), plan, task["line"]) as sites:
        arm = Arm("stall", f"{TRAINER},gate_batches={task['gate_batches']}", has_peer=False)
        trainer = new_trainer(arm, plan, task["device"])
        batch = random_batch(plan, task["device"])
        open_exchange(trainer, batch)
        try:
            step, validation = stock_seconds(trainer, batch)
            rounds = live_through(trainer, batch, sites, task["rounds"] + 1)[1:]
        finally:
            trainer.exchange.stop()
    return {
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "patch": list(trainer.configuration_manager.patch_size),
        "gate_batches": trainer.gate_batches,
        "step_seconds": step,
        "validation_seconds": validation,
        "steps_per_epoch": [trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch],
        "rounds": rounds,
    }


def smaller_patch(plan: Planned, patch: Sequence[int] | None) -> Planned:
    """The same network for another patch."""
    if patch is None:
        return plan
    plans = copy.deepcopy(plan.plans)
    plans["configurations"][plan.configuration]["patch_size"] = list(patch)
    return replace(plan, plans=plans)


@contextmanager
def federation(folder: Path, plan: Planned, line: Mapping[str, float] | None) -> Iterator[dict[str, Site]]:
    """Both sites with the plan's digest; the peer is served, behind a line if there is one."""
    sites = served_sites(folder, (US, PEER))
    path, known = sites[US].federation.path, sites[US].federation.plans_digest
    digest = plans_digest(plan.plans, plan.dataset_json, plan.configuration)
    path.write_text(path.read_text().replace(known, digest))
    with ExitStack() as stack:
        led, _ = stack.enter_context(led_through_lines(sites, [PEER] if line else [], **(line or {})))
        os.environ[SITE_VARIABLE] = str(led[US].path)
        stack.callback(ServerProcess(led[PEER]).stop)
        yield led


def open_exchange(trainer: Trainer, batch: Mapping[str, Any]) -> None:
    """What ``on_train_start`` does beside opening a dataset."""
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    trainer.dataloader_val = SimpleNamespace(generator=repeat(batch))
    trainer.dataloader_train = SimpleNamespace(generator=SimpleNamespace(indices=["case"]))
    trainer.logger.plot_progress_png = lambda folder: None
    trainer.exchange = trainer.new_exchange()
    trainer.prepare()
    trainer.exchange.start()


def stock_seconds(trainer: Trainer, batch: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Seconds of nnU-Net's training and validation step in the first epoch, where no peer is here."""
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    stages = Stages(settle_of(trainer.device))
    found: dict[str, list[float]] = {"step": [], "validation": []}
    for name, take in (("step", trainer.train_step), ("validation", validation_of(trainer))):
        for _ in range(STOCK_STEPS):
            stages.seconds.clear()
            with stages.stage(name):
                take({**batch})
            found[name].append(stages.seconds[name])
    return found["step"][1:], found["validation"][1:]


def validation_of(trainer: Trainer) -> Callable[[dict[str, Any]], None]:
    """nnU-Net's validation step, as an epoch takes it."""

    def step(batch: dict[str, Any]) -> None:
        trainer.network.eval()
        with torch.no_grad():
            trainer.validation_step(batch)
        trainer.network.train()

    return step


def settle_of(device: torch.device) -> Callable[[], None]:
    """Waits for what a GPU has still to do."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def live_through(
    trainer: Trainer,
    batch: dict[str, Any],
    sites: Mapping[str, Site],
    rounds: int,
) -> list[dict[str, Any]]:
    """Rounds one after the other; what each cost the training, and the background.

    Raises:
        RuntimeError: a peer's weights were not taken in.
    """
    stages = Stages(settle_of(trainer.device))
    watch(stages, trainer)
    peer_network = copy.deepcopy(weights.unwrap(trainer.network)).cpu()
    move(peer_network)
    found = []
    for number in range(1, rounds + 1):
        offer_network(sites[PEER], peer_network, trainer.classes)
        log_an_epoch(trainer)
        stages.seconds.clear()
        trainer.on_epoch_end()
        background = wait_for_offer(sites[US].folder / "inbox" / PEER, number)
        trainer.on_epoch_start()
        if trainer.visit is None:
            raise RuntimeError(f"round {number}: no peer was taken in; see {trainer.log_file}")
        found.append({"stages": dict(stages.seconds), "background": background})
        trainer.on_train_epoch_start()
        trainer.train_step(batch)
    return found


def watch(stages: Stages, trainer: Trainer) -> None:
    """Everything that a round asks of the training's own thread."""
    for owner, attribute, name in (
        (trainer, "begin_round", "offering"),
        (trainer, "receive", "collecting"),
        (weights, "read", "checking"),
        (trainer.exchange._mailbox, "accept", "checking"),
        (weights, "put", "loading"),
        (trainer, "_visit", "loading"),
        (gate, "score", "gating"),
        (trainer, "_meet", "merging"),
        (trainer, "let_peer_go", "merging"),
        (trainer, "save_checkpoint", "checkpoints"),
        (progress_picture, "try_to_draw", "picture"),
    ):
        stages.watch(owner, attribute, name)


def log_an_epoch(trainer: Trainer) -> None:
    """What nnU-Net's epoch has logged when ``on_epoch_end`` comes; a constant Dice, so that none is best."""
    facts = {
        "train_losses": 1.0,
        "val_losses": 1.0,
        "mean_fg_dice": 0.5,
        "dice_per_class_or_region": [0.5] * len(trainer.classes),
    }
    for key, value in facts.items():
        trainer.logger.log(key, value, trainer.current_epoch)


def wait_for_offer(inbox: Path, sequence: int) -> dict[str, float]:
    """Until the courier has brought it; seconds, and CPU seconds of this process meanwhile.

    Raises:
        RuntimeError: it did not come in time.
    """
    started, spent = time.monotonic(), time.process_time()
    while not any(inbox.glob(f"{sequence:010d}-*/weights.safetensors")):
        if time.monotonic() - started > WAIT_SECONDS:
            raise RuntimeError(f"offer {sequence} did not come within {WAIT_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
    found = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - spent}
    time.sleep(SETTLE_SECONDS)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
