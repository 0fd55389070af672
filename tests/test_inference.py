"""docs/how-to/inference.md, done: nnU-Net's own commands on folders that were trained with peers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from nnunet_kit import CONFIGURATION, MANY
from test_nnunet_command import TRAINER, Command

from nnunet_gml.comparison.measures import measure
from nnunet_gml.comparison.runs import find_predicted
from nnunet_gml.installed import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FLAT = "2d_small"
MODEL = ("-d", "901", "-p", "nnUNetPlans", "-tr", TRAINER)
PREDICT = (
    *MODEL,
    "-f",
    "0",
    "-device",
    "cpu",
    "--disable_tta",
    "--disable_progress_bar",
    "-npp",
    "0",
    "-nps",
    "0",
)


class Inference:
    """A 2d and a 3d network, each trained with a peer, on a machine that has never heard of this plugin."""

    def __init__(self, site: Command) -> None:
        for configuration in (FLAT, CONFIGURATION):
            site.federate(configuration)
            site.run(configuration, "0", "--npz")
        self.site = site
        self.base = next(site.results.glob("Dataset*"))
        (self.raw,) = (site.data / "nnUNet_raw").glob("Dataset*")
        self.images = self.raw / "imagesTs"
        ours = ("nnUNet_extTrainer", "nnUNet_gml_site", "PYTHONPATH")
        self.stock = {name: value for name, value in site.environment.items() if name not in ours}

    def run(self, name: str, *words: str | Path) -> str:
        """One of nnU-Net's commands, without our trainers in reach; it must end well."""
        whole = [command(name), *map(str, words)]
        done = subprocess.run(whole, env=self.stock, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def predict(self, configuration: str, target: Path) -> Path:
        """Held-out cases with probabilities."""
        self.run(
            "nnUNetv2_predict",
            "-i",
            self.images,
            "-o",
            target,
            "-c",
            configuration,
            *PREDICT,
            "--save_probabilities",
        )
        return target


@pytest.fixture(scope="module")
def inference(phantom_data, tmp_path_factory):
    """Trained once for all tests of this page."""
    with pytest.MonkeyPatch.context() as patch:
        yield Inference(Command(tmp_path_factory.mktemp("inference"), phantom_data(MANY), patch))


def test_prediction_ensemble_and_postprocessing_are_nnunets(inference, tmp_path):
    """Two configurations predict, nnU-Net finds the best, averages both, postprocesses; compare reads it."""
    said = inference.run(
        "nnUNetv2_find_best_configuration",
        "901",
        "-c",
        FLAT,
        CONFIGURATION,
        "-tr",
        TRAINER,
        "-f",
        "0",
        "-np",
        "1",
    )
    assert f"{TRAINER}__nnUNetPlans__{CONFIGURATION}" in said
    found = json.loads((inference.base / "inference_information.json").read_text())
    assert len(found["all_results"]) == 3 and (inference.base / "inference_instructions.txt").exists()

    folders = [inference.predict(name, tmp_path / name) for name in (FLAT, CONFIGURATION)]
    inference.run("nnUNetv2_ensemble", "-i", *folders, "-o", tmp_path / "both", "-np", "1")
    best = found["best_model_or_ensemble"]
    inference.run(
        "nnUNetv2_apply_postprocessing",
        *("-i", tmp_path / "both", "-o", tmp_path / "final", "-np", "1"),
        *("-pp_pkl_file", best["postprocessing_file"], "-plans_json", best["some_plans_file"]),
    )

    places = [f"north:{arm}={tmp_path / arm},{inference.raw / 'labelsTs'}" for arm in ("both", "final")]
    scores = measure(find_predicted(places), {})
    assert set(scores["case"]) == {"north_004"} and scores["dice"].between(0, 1).any()


def test_a_folds_validation_is_compared_by_nnunets_own_figures(inference):
    """Ours are those of validation/summary.json, which nnU-Net wrote."""
    fold = inference.site.fold(CONFIGURATION)
    (found,) = find_predicted([f"north={fold}"])
    ours = measure([found], {}).set_index(["case", "class"])["dice"]

    theirs = json.loads((fold / "validation" / "summary.json").read_text())["metric_per_case"]

    assert len(theirs) == len(found.cases)
    for case in theirs:
        name = Path(case["prediction_file"]).name.removesuffix(".nii.gz")
        for organ, label in found.classes.items():
            expected = case["metrics"][str(label)]["Dice"]
            assert ours[name, organ] == pytest.approx(expected, nan_ok=True)
