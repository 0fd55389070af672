"""A small comparison with all that a report can show: files as trainings leave them, invented numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK

from nnunet_gml.comparison.runs import Predicted
from nnunet_gml.comparison.summary import Summary, summarise
from nnunet_gml.phantom import write_dataset
from peer_sync.ledger import Ledger

STOCK, OURS = "individual", "gossip"
SITES = ("north", "east")
ORGANS = ("brainstem", "spinal-cord", "mandible", "parotids", "eyes")
CASES = ("north_001", "north_002", "north_003")
EPOCH = """2026-11-22 08:01:{second:02d}.000000: Epoch {number}
2026-11-22 08:01:{second:02d}.000000: Current learning rate: 0.01
2026-11-22 08:01:{second:02d}.000000: train_loss {loss}
2026-11-22 08:01:{second:02d}.000000: val_loss {loss}
2026-11-22 08:01:{second:02d}.000000: Pseudo dice [{dice}]
2026-11-22 08:01:{second:02d}.000000: Epoch time: 30.0 s
"""


@dataclass(frozen=True)
class Comparison:
    """What `write_report` takes."""

    predicted: list[Predicted]
    scores: pd.DataFrame
    summary: Summary


def compare(
    folder: Path,
    sites: Sequence[str] = SITES,
    arms: Sequence[str] = (STOCK, OURS),
    organs: Sequence[str] = ORGANS,
    with_runs: bool = True,
) -> Comparison:
    """Phantom cases at every site, a stock and a better method, three rounds; one offer was refused."""
    raw = write_dataset(folder / "raw", 901, "north", 1, 1, len(CASES))
    predicted = [
        _predicted(folder / f"{place}-{column}", raw, site, sites[place - 1], arm, organs, with_runs)
        for place, site in enumerate(sites)
        for column, arm in enumerate(arms)
    ]
    scores = pd.DataFrame(
        [
            _score(site, arm, case, organ, 0.7 + 0.02 * arms.index(arm) + 0.01 * number + 0.03 * place)
            for place, site in enumerate(sites)
            for arm in arms
            for number, case in enumerate(CASES)
            for organ in organs
        ]
    )
    return Comparison(predicted, scores, summarise(scores, arms[0], dict.fromkeys(organs, 2.0)))


def write_training(
    fold: Path, peer: str, organs: Sequence[str] = ORGANS, epochs: int = 12, rounds: int = 3
) -> None:
    """nnU-Net's log, and a list of rounds unless there are none."""
    fold.mkdir(parents=True)
    text = "".join(
        EPOCH.format(second=n, number=n, loss=-0.05 * n, dice=", ".join(["np.float32(0.5)"] * len(organs)))
        for n in range(epochs)
    )
    (fold / "training_log_2026_11_2_08_01_00.txt").write_text(text)
    (fold / "debug.json").write_text(json.dumps({"num_epochs": "20"}))
    (fold.parent / "dataset.json").write_text(json.dumps(_description(organs)))
    lines = [json.dumps(each) for n in range(1, rounds + 1) for each in _round(n, peer, organs)]
    if lines:
        (fold / "gml_rounds.jsonl").write_text("\n".join(lines) + "\n")


def write_mail(mail: Path, peer: str, refusal: str = "sha256 differs") -> Path:
    """A ledger with three offers taken and one refused."""
    mail.mkdir(parents=True)
    ledger = Ledger(mail / "ledger.jsonl")
    for number in (1, 2, 3):
        ledger.write(
            event="collect", peer=peer, round=number, sequence=number, bytes=2_000_000, verdict="accepted"
        )
    ledger.write(
        event="collect", peer=peer, round=4, sequence=4, verdict="refused", rule="norm", message=refusal
    )
    return mail


def _predicted(
    here: Path, raw: Path, site: str, peer: str, arm: str, organs: Sequence[str], with_runs: bool
) -> Predicted:
    predictions = here / "predictions"
    predictions.mkdir(parents=True)
    for label in (raw / "labelsTs").iterdir():
        _shifted(label, predictions / label.name, 2 if arm == STOCK else 1)
    if with_runs:
        write_training(here / "model" / "fold_0", peer, organs, rounds=0 if arm == STOCK else 3)
    is_exchanging = with_runs and arm != STOCK
    return Predicted(
        site=site,
        arm=arm,
        predictions=predictions,
        references=raw / "labelsTs",
        dataset=_description(organs),
        training=here / "model" / "fold_0" if with_runs else None,
        mail=write_mail(here / "mail", peer, f"from {peer}: no") if is_exchanging else None,
        images=raw / "imagesTs" if with_runs else None,
        trained_at=site,
    )


def _shifted(source: Path, target: Path, voxels: int) -> None:
    image = SimpleITK.ReadImage(str(source))
    moved = SimpleITK.GetImageFromArray(np.roll(SimpleITK.GetArrayFromImage(image), voxels, axis=2))
    moved.CopyInformation(image)
    SimpleITK.WriteImage(moved, str(target))


def _description(organs: Sequence[str]) -> dict[str, Any]:
    labels = {"background": 0, **{name: number for number, name in enumerate(organs, 1)}}
    return {"channel_names": {"0": "synthetic"}, "labels": labels, "file_ending": ".nii.gz"}


def _score(site: str, arm: str, case: str, organ: str, dice: float) -> dict[str, Any]:
    return {
        "trained_at": site,
        "site": site,
        "arm": arm,
        "case": case,
        "patient": f"{site}/{case}",
        "class": organ,
        "dice": dice,
        "nsd": dice,
        "hd95_mm": 4.5,
        "reference_ml": 12.0,
        "predicted_ml": 11.0,
        "volume_error_ml": -1.0,
        "absent_reference": False,
        "absent_predicted": False,
    }


def _round(number: int, peer: str, organs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    both = {"round": number, "peer": peer, "sequence": number, "epoch": 3 * number}
    dice = [0.5] * len(organs)
    met = {
        "event": "met",
        "used": number > 1,
        "weight": 0.5,
        "classes": list(organs),
        "trust": [0.25 * number] * len(organs),
    }
    left = {"event": "left", "epochs": 2, "ratio": 0.1, "mask_share": dice, "merged": 0.5}
    return {**both, **met, "dice_peer": dice, "dice_ours": dice}, {
        **both,
        **left,
        "dice_ours": [0.625] * len(organs),
        "dice_merged": [0.75] * len(organs),
    }
