"""A trained fold as nnU-Net leaves it: a real checkpoint, and beside it all the files that name cases."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from nnunet_kit import CONFIGURATION, build_trainer, plans_of, use_folders
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_gml.planning.planned import Planned

CASES = ("north_000", "north_003")
HOST = "workstation-7"
ROUNDS = (
    {"event": "met", "round": 1, "epoch": 2, "peer": "south", "used": True},
    {"event": "left", "round": 1, "epoch": 5, "peer": "south"},
    {"event": "met", "round": 2, "epoch": 6, "peer": "east", "used": False},
    {"event": "met", "round": 3, "epoch": 9, "peer": "south", "used": True},
)


def trained_fold(data: Path, results: Path, monkeypatch, federation_digest: str = "") -> Path:
    """The output folder of fold 0 after a training that met two peers and used one."""
    use_folders(data, monkeypatch, results=results)
    trainer = build_trainer(nnUNetTrainer, data)
    trainer.initialize()
    trainer.current_epoch = 11
    fold = Path(trainer.output_folder)
    plans, dataset = plans_of(data)
    listed = {case: {"images": [f"imagesTr/{case}_0000.nii.gz"]} for case in CASES}
    write_json(fold.parent / "dataset.json", {**dataset, "dataset": listed, "description": CASES[0]})
    write_json(fold.parent / "plans.json", plans)
    write_json(fold.parent / "dataset_fingerprint.json", {"spacings": [[3, 3, 3]], "shapes_after_crop": []})
    write_json(fold / "debug.json", {"hostname": HOST, "val_keys": CASES})
    per_case = [{"prediction_file": f"{fold}/validation/{CASES[1]}.nii.gz"}]
    means = {"1": {"Dice": 0.8}, "2": {"Dice": float("nan")}, "3": {"Dice": 0.25}}
    (fold / "validation").mkdir()
    write_json(fold / "validation" / "summary.json", {"mean": means, "metric_per_case": per_case})
    (fold / "validation" / f"{CASES[1]}.nii.gz").write_bytes(b"contours")
    (fold / "gml_rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ROUNDS))
    trainer.my_init_kwargs["dataset_json"] = {**dataset, "dataset": listed}
    trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
    add_state(fold / "checkpoint_final.pth", federation_digest)
    return fold


def add_state(checkpoint: Path, federation_digest: str) -> None:
    """What our trainers write into nnU-Net's checkpoint."""
    content = torch.load(checkpoint, weights_only=False)
    content["nnunet_gml"] = {"version": "0.1.0", "federation": federation_digest or None}
    torch.save(content, checkpoint)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def plan_of(data: Path, configuration: str = CONFIGURATION) -> Planned:
    """The phantom's plans as `nnunet_gml.planning.planned.planned` finds them."""
    (folder,) = (data / "nnUNet_preprocessed").glob("Dataset*")
    return Planned(folder.name, folder, "nnUNetPlans", *plans_of(data), configuration)
