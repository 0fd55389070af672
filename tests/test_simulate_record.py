"""What run.json says of each arm: its settings, its machines, the rounds that had no peer."""

import json
import subprocess
import sys

import pytest

from nnunet_gml import __version__
from nnunet_gml.commands.simulate import simulate
from nnunet_gml.simulation import record
from nnunet_gml.simulation.commands import fold_folder
from nnunet_gml.simulation.meetings import rounds_of
from nnunet_gml.simulation.recipe import Recipe, parse_arm
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError

ARM = parse_arm("m=nnUNetTrainerGMLFrozen,distillation_weight=0.25")
FEDAVG = parse_arm("f=nnUNetTrainerFedAvg")
RECIPE = Recipe(
    datasets=(),
    trainers=("m=nnUNetTrainerGMLFrozen,distillation_weight=0.25", "f=nnUNetTrainerFedAvg"),
    epochs=6,
    iterations=1,
    seed=5,
    warmup_epochs=2,
    epochs_per_round=1,
)


@pytest.fixture
def sites(tmp_path):
    """Three sites without anything in them."""
    return [SiteSpace(n, tmp_path / f"Dataset00{k}_{n}", tmp_path / n) for k, n in enumerate("abc", start=1)]


def leave(site, arm, *names, text=""):
    """Files of a training in its fold's folder."""
    fold = fold_folder(site, RECIPE, arm.name)
    fold.mkdir(parents=True, exist_ok=True)
    for name in names:
        (fold / name).write_text(text)


def test_settings_as_trained():
    """The arm's own value, the run's, the class's own (its peer does not learn) and one that it inherits."""
    settings = record.settings_of_arm(ARM, RECIPE)

    assert (settings["distillation_weight"], settings["warmup_epochs"]) == (0.25, 2)
    assert (settings["peer_learns"], settings["mask"]) == (False, "agree")
    assert record.settings_of_arm(parse_arm("nnUNetTrainer"), RECIPE) == {}


def test_settings_are_noted_when_training_begins(sites, monkeypatch):
    """Before there is a checkpoint; later calls add only another machine."""
    content = {}
    monkeypatch.setattr(record, "this_machine", lambda: {"processor": "Abacus 3", "cores": 7})

    record.note_training(content, ARM, RECIPE, sites)
    leave(sites[1], ARM, "checkpoint_latest.pth")
    monkeypatch.setattr(record, "settings_of_arm", lambda arm, recipe: {"mask": "gt"})
    monkeypatch.setattr(record, "this_machine", lambda: {"processor": "Abacus 4", "cores": 8})
    record.note_training(content, ARM, RECIPE, sites)
    record.note_training(content, ARM, RECIPE, sites)

    noted = content["trained"]["m"]
    assert (noted["version"], noted["settings"]["distillation_weight"]) == (__version__, 0.25)
    assert [machine["cores"] for machine in noted["machines"]] == [7, 8]


def test_of_a_training_older_than_the_record_nothing_is_known(sites):
    """Its settings are not made up."""
    content = {}
    leave(sites[0], ARM, "checkpoint_best.pth")

    record.note_training(content, ARM, RECIPE, sites)

    assert content == {"trained": {}}


@pytest.fixture
def trained():
    """A record whose arm m was trained when the class had another mask."""
    settings = {**record.settings_of_arm(ARM, RECIPE), "mask": "union"}
    facts = {"version": "0.0.9", "settings": settings, "machines": []}
    return {"recipe": RECIPE.as_json(), "trained": {"m": facts}}


def test_an_arm_trained_with_other_settings_is_refused(sites, trained):
    """The error names arm, setting and version."""
    leave(sites[2], ARM, "checkpoint_final.pth")

    with pytest.raises(
        ConfigError, match=r"arm m was trained by nnunet-gml 0\.0\.9 with mask 'union' \(now 'agr"
    ):
        record.check_trained(trained, RECIPE, sites)


def test_an_arm_without_results_may_begin_again(sites, trained):
    """No site has a checkpoint, so nothing would be mixed."""
    record.check_trained(trained, RECIPE, sites)


def test_an_arm_trained_alike_may_go_on(sites, trained):
    """The same settings after the way through run.json."""
    leave(sites[2], ARM, "checkpoint_final.pth")
    trained["trained"]["m"]["settings"]["mask"] = "agree"

    record.check_trained(json.loads(json.dumps(trained)), RECIPE, sites)


def test_continue_checks_before_it_writes(tmp_path, trained):
    """`nnunet-gml simulate --continue` refuses, and the classes that the arm was trained with stay."""
    raw = tmp_path / "Dataset001_a"
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (raw / part).mkdir(parents=True)
    (raw / "imagesTs" / "c_0000.nii.gz").touch()
    (raw / "labelsTs" / "c.nii.gz").touch()
    about = {"labels": {"background": 0}, "channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(about))
    out = tmp_path / "out"
    recipe = Recipe(**{**vars(RECIPE), "datasets": (str(raw),)})
    leave(SiteSpace("a", raw, out / "sites" / "a"), ARM, "checkpoint_final.pth")
    (out / "run.json").write_text(json.dumps({**trained, "recipe": recipe.as_json()}))

    with pytest.raises(ConfigError, match="arm m was trained"):
        simulate(recipe, out, continued=True)

    assert not (out / "trainers").exists()


def events(*rounds, event="met", peers="b"):
    """Lines of a list of rounds."""
    return "".join(
        json.dumps({"event": event, "round": n, "peer": peer}) + "\n" for n in rounds for peer in peers
    )


def counted(sites, arm):
    """The rounds of one arm."""
    kept = {arm.name: {"settings": record.settings_of_arm(arm, RECIPE)}}
    return rounds_of(sites, [arm], RECIPE, kept)[arm.name]


def test_rounds_without_a_peer_by_hand(sites):
    """6 epochs, the first exchange after 2, then each epoch, none after the last: 4 rounds are due.

    Site a met in 1 and twice in 3 (continued), its last line is cut; b met nobody; c has not finished.
    """
    leave(sites[0], ARM, "checkpoint_final.pth")
    leave(sites[0], ARM, "gml_rounds.jsonl", text=events(1, 3, 3) + events(2, event="left") + '{"event": "m')
    leave(sites[1], ARM, "checkpoint_final.pth")
    leave(sites[2], ARM, "gml_rounds.jsonl", text=events(1))

    assert counted(sites, ARM) == {"due": 4, "without_peer": {"a": [2, 4], "b": [1, 2, 3, 4], "c": None}}


def test_in_lock_step_all_others_are_due(sites):
    """Two peers in rounds 1, 2 and 4, one in round 3."""
    text = events(1, 2, 4, event="averaged", peers="bc") + events(3, event="averaged")
    leave(sites[0], FEDAVG, "checkpoint_final.pth")
    leave(sites[0], FEDAVG, "gml_rounds.jsonl", text=text)

    assert counted(sites, FEDAVG)["without_peer"]["a"] == [3]


def test_arms_without_exchange_or_record_have_no_rounds(sites):
    """Stock training, and a training older than the record."""
    stock = parse_arm("nnUNetTrainer")

    assert rounds_of(sites, [stock, ARM], RECIPE, {stock.name: {"settings": {}}}) == {}


def test_the_machine_has_a_name_and_cores():
    """Both are there, whatever the machine."""
    machine = record.this_machine()

    assert machine["processor"]
    assert machine["cores"] >= 1


def test_the_command_line_imports_no_torch():
    """Help and errors must come at once: torch takes seconds."""
    code = "import sys, nnunet_gml.commands.simulate; print({'torch', 'nnunetv2'} & set(sys.modules))"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown == "set()\n"
