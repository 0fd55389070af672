"""benchmarks/speed.py, parts steps and memory: real steps of real trainers, on a tiny plan."""

import pytest
import torch
from courier_kit import build_sites
from model_kit import plan_of
from nnunet_kit import use_folders

from nnunet_gml.installed import trainers_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
"""nnU-Net's search for a trainer imports all that it has."""
FACTS = {
    "parameters": 31_200_000,
    "num_epochs": 1000,
    "num_iterations_per_epoch": 250,
    "num_val_iterations_per_epoch": 50,
    "warmup_epochs": 50,
    "epochs_per_round": 10,
    "mutual_epochs": 5,
}
PLACE = {"size": "standard", "classes": 16, "device": "cuda", "compiled": True}


@pytest.fixture
def step(bench, phantom_data, tmp_path, monkeypatch):
    """Build the step of an arm, on the phantom's plan."""
    data = phantom_data()
    use_folders(data, monkeypatch, results=tmp_path / "results")
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    module = bench("speed_trainers")

    def build(arm: str):
        torch.manual_seed(0)
        plan, site = plan_of(data), build_sites(tmp_path / arm)["north"]
        return module.Step(module.ARMS[arm], plan, module.random_batch(plan, "cpu"), site, "cpu")

    return build


@pytest.mark.parametrize(
    ("arm", "forwards"),
    [("stock", 1), ("alone", 1), ("frozen", 2), ("mutual", 2), ("low_memory", 3), ("contrastive", 2)],
)
def test_every_arm_runs_its_networks_as_often_as_it_should(step, arm, forwards):
    """By hand: ours once; a peer's once more; in two passes the peer's twice."""
    one, seen = step(arm), []
    for network in one._networks:
        network.register_forward_hook(lambda *_: seen.append(1))

    one()

    assert len(seen) == forwards


def test_steps_change_nothing(step):
    """Learning rates are 0: the tenth step does the work of the first."""
    mutual = step("mutual")
    before = [p.detach().clone() for network in mutual._networks for p in network.parameters()]

    mutual()

    after = [p for network in mutual._networks for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert any(p.grad is not None and bool(p.grad.any()) for p in mutual._networks[0].parameters())


def test_somebody_sees_an_organ_in_few_voxels(step):
    """8 % in the reference; 2 % more for each network at most, a little less where they overlap."""
    assert 0.08 < step("mutual").foreground() < 0.125


def test_a_step_without_the_peer_that_should_be_there_is_not_counted(step, bench):
    """The trainer goes on alone where memory is short; the benchmark must not call that a fast step."""
    mutual = step("mutual")
    mutual.trainer.visit = None

    with pytest.raises(bench("speed_trainers").TooLargeError):
        mutual()


def test_what_runs_out_of_memory_is_left_out_from_there_on(bench):
    """The others take all their turns."""
    module, counts = bench("speed_worker"), {"stock": 0, "mutual": 0}

    def stock():
        counts["stock"] += 1

    def mutual():
        counts["mutual"] += 1
        if counts["mutual"] == 2:
            raise torch.OutOfMemoryError

    found = module.in_turn({"stock": stock, "mutual": mutual}, 3, "cpu")

    assert found["mutual"] == module.TOO_LARGE and counts["mutual"] == 2
    assert len(found["stock"]) == 3 and counts["stock"] == 3 + module.STEPS_BEFORE


def test_an_arm_without_room_is_measured_again_beside_stock_alone(bench, monkeypatch):
    """Its ratio is then to the stock steps of that second process: 3 / 2."""
    module, asked = bench("speed_steps"), []

    def ask(task):
        asked.append(task.arms)
        short = len(asked) == 1
        seconds = {"stock": [1.0 if short else 2.0], "mutual": module.TOO_LARGE if short else [3.0]}
        return {"seconds": seconds, "facts": {}}

    monkeypatch.setattr(module, "ask", ask)
    task = bench("speed_worker").Task("folder", "small", 2, "cuda", False, ("stock", "mutual"), 1)

    found = module.fit(task)

    assert asked == [("stock", "mutual"), ("stock", "mutual")]
    assert module.ratios(found, "mutual").median == 1.5


def test_ratios_are_taken_turn_by_turn(bench):
    """By hand: 2/1, 4/4, 9/3: median 2; a ratio of the medians (3 and 4) would be 1.33."""
    scene = {"seconds": {"stock": [1.0, 4.0, 3.0], "mutual": [2.0, 4.0, 9.0]}}

    ratio = bench("speed_steps").ratios(scene, "mutual")

    assert (ratio.median, ratio.least, ratio.most) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(("validation", "ratio"), [(0.0, 1.475), (1.0, 1 + 0.475 * 250 / 300)])
def test_a_whole_run_is_the_sum_of_its_epochs(bench, validation, ratio):
    """By hand: 95 rounds of 5 epochs are 475 of 1000; steps with a peer take twice as long."""
    scene = {"facts": {"mutual": FACTS}, "seconds": {"stock": [1.0], "validation": [validation]}}

    assert bench("speed_steps").whole_run(scene, 2.0, 1.0) == pytest.approx(ratio)


def scene_of_steps(**seconds):
    """A scene in which every arm took as long as stock, but for the arms that are named."""
    arms = ("stock", "alone", "frozen", "mutual", "low_memory", "contrastive", "validation")
    return {
        **PLACE,
        "seconds": {arm: seconds.get(arm, [1.0]) for arm in arms},
        "facts": {"stock": FACTS, "mutual": FACTS},
    }


def test_the_table_of_steps_says_which_targets_are_missed(bench):
    """By hand: 1.40 of 1.40 is met, 2.11 of 2.10 is not; so is a run with steps of 2.11 in 475 epochs."""
    module = bench("speed_steps")
    scene = scene_of_steps(frozen=[1.4], mutual=[2.11], contrastive=module.TOO_LARGE)

    text = module.tables({"scenes": [scene, {**PLACE, "failed": "no compiler"}]})

    assert "| frozen | 1.400 (1.400 to 1.400) | 1.40 | met | 1.33 |" in text
    assert "| mutual | 2.110 (2.110 to 2.110) | 2.10 | **missed** | 2 |" in text
    assert "| contrastive | out of memory | - | - | 2 | - |" in text
    assert "| mutual | 1.439 | 1.25 | **missed** |" in text
    assert "failed: standard, 16 classes, cuda: no compiler" in text


def test_the_table_of_memory_judges_a_gpu_alone(bench):
    """By hand: 11.5 of 10 GiB is the target of 1.15; resident memory of a CPU has none."""
    module, peak = bench("speed_memory"), {"reserved": 20 << 30, "resident": 1 << 30}
    gib = {"stock": 10, "frozen": 11.5, "low_memory": 13.6, "mutual": 20}
    peaks = {arm: {**peak, "allocated": int(size * 2**30)} for arm, size in gib.items()}
    scene = {**PLACE, "facts": {"stock": FACTS}, "peaks": peaks}

    text = module.tables({"scenes": [scene, {**scene, "device": "cpu"}], "estimates": []})

    assert "| frozen | 1.15 | 1.15 | met | 11.50 | 10.00 | 20.00 (20.00) |" in text
    assert "| mutual, low memory | 1.36 | 1.35 | **missed** |" in text
    assert "| mutual | 1.00 | - (on GPU) | - |" in text


def test_an_interrupted_part_goes_on_where_it_stopped(bench, tmp_path, monkeypatch):
    """The first scene is not measured twice; when all are done, the next call measures anew."""
    module, settings = bench("speed_scenes"), bench("speed_settings").Settings(tmp_path, True, 1, "cpu")
    monkeypatch.setattr(module, "plan", lambda *_: None)
    scenes, calls = [module.Scene("small", number, "cpu", False) for number in (2, 16)], []

    def work(scene, folder):
        calls.append(scene.classes)
        if calls == [2, 16]:
            raise KeyboardInterrupt
        return {"calls": len(calls)}

    with pytest.raises(KeyboardInterrupt):
        module.each_scene(scenes, settings, "steps", work)
    found = module.each_scene(scenes, settings, "steps", work)

    assert calls == [2, 16, 16] and [each["calls"] for each in found] == [1, 3]
    assert not list((tmp_path / "steps").glob("*.json"))


def test_a_scene_that_fails_costs_the_others_nothing(bench, tmp_path, monkeypatch):
    """Its last words are noted."""
    module, settings = bench("speed_scenes"), bench("speed_settings").Settings(tmp_path, True, 1, "cpu")
    monkeypatch.setattr(module, "plan", lambda *_: None)

    def work(scene, folder):
        if scene.classes == 2:
            raise RuntimeError("many lines\nno compiler")
        return {"done": True}

    scenes = [module.Scene("small", number, "cpu", False) for number in (2, 16)]
    first, second = module.each_scene(scenes, settings, "steps", work)

    assert first["failed"] == "no compiler" and second["done"]


@pytest.mark.slow
def test_the_plans_are_nnunets_own(bench, tmp_path, monkeypatch):
    """31 million parameters and a patch of 128x128x128 by the default planner, 102 million by ResEnc-L's."""
    from nnunet_gml.planning.planned_network import planned_network

    module = bench("speed_plans")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, "")
    for name, million in (("standard", 31.2), ("resenc-l", 102.4)):
        module.plan(module.SIZES[name], tmp_path)
        plan = module.planned(module.SIZES[name], 2, tmp_path)
        size = sum(p.numel() for p in planned_network(plan).parameters())
        assert size / 1e6 == pytest.approx(million, abs=0.1)
        assert plan.plans["configurations"]["3d_fullres"]["batch_size"] == 2
    assert module.planned(module.SIZES["standard"], 2, tmp_path).plans["configurations"]["3d_fullres"][
        "patch_size"
    ] == [128, 128, 128]
