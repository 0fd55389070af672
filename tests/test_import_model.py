"""A common starting point: nothing in a stranger's file runs, it must fit our plans, and nnU-Net takes it."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import torch
from model_kit import plan_of, trained_fold
from nnunet_kit import CONFIGURATION, build_trainer
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_gml.cli import main
from nnunet_gml.handover import checkpoints
from nnunet_gml.handover.sharing import export
from nnunet_gml.handover.starting_point import _weights_in, write_starting_point
from peer_sync.errors import ConfigError

LAYOUT = f"Dataset901_north/nnUNetTrainer__nnUNetPlans__{CONFIGURATION}/fold_0/checkpoint_final.pth"


@pytest.fixture
def fold(phantom_data, tmp_path, monkeypatch):
    """A trained fold."""
    return trained_fold(phantom_data(), tmp_path / "results", monkeypatch)


@pytest.fixture
def plan(phantom_data):
    """What is going to be trained."""
    return plan_of(phantom_data())


class Runs:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zipped(path: Path, checkpoint: Path, packing: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint in nnU-Net's layout of a zip."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.write(checkpoint, LAYOUT)
    return path


def test_nnunet_starts_from_what_was_imported(fold, plan, phantom_data, tmp_path):
    """Through nnU-Net's own loading, all layers but the segmentation's are those of the model."""
    export([fold], tmp_path / "model.zip", None)

    write_starting_point(tmp_path / "model.zip", tmp_path / "start.pth", plan)

    trainer = build_trainer(nnUNetTrainer, phantom_data())
    trainer.initialize()
    fresh = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    load_pretrained_weights(trainer.network, str(tmp_path / "start.pth"))
    model = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, (fresh if ".seg_layers." in name else model)[name]), name


def test_zip_and_checkpoint_give_the_same_digest(fold, plan, tmp_path):
    """So sites can compare what they start from by telephone, whichever file they were sent."""
    export([fold], tmp_path / "model.zip", None)

    one = write_starting_point(tmp_path / "model.zip", tmp_path / "a.pth", plan)
    other = write_starting_point(fold / "checkpoint_final.pth", tmp_path / "b.pth", plan)

    assert one.digest == other.digest
    assert one.source == LAYOUT and other.source == ""


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_checkpoint_is_never_run(fold, plan, tmp_path, as_zip):
    """torch.load as nnU-Net calls it would run it."""
    trap = tmp_path / "trap"
    content = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    torch.save({**content, "logging": Runs(trap)}, tmp_path / "bad.pth")
    source = zipped(tmp_path / "bad.zip", tmp_path / "bad.pth") if as_zip else tmp_path / "bad.pth"

    with pytest.raises(ConfigError, match="is not taken"):
        write_starting_point(source, tmp_path / "start.pth", plan)

    assert not trap.exists() and not (tmp_path / "start.pth").exists()
    assert list(tmp_path.glob(".part-*")) == []
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert trap.exists()


def test_the_network_of_other_plans_is_refused(fold, phantom_data, tmp_path):
    """With the tensor, its shape, and what our plans expect."""
    other = plan_of(phantom_data(), "3d_fullres")

    with pytest.raises(ConfigError, match="but our plans expect") as refused:
        write_starting_point(fold / "checkpoint_final.pth", tmp_path / "start.pth", other)
    assert "plans adopt --file" in refused.value.hint


def test_only_what_was_asked_for_is_written(fold, plan, tmp_path):
    """A tensor that shows a part of a larger one brings nothing of the rest."""
    content = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    name, tensor = next(iter(content["network_weights"].items()))
    hidden = torch.cat([tensor.flatten(), torch.full((1000,), 7.0)])
    content["network_weights"] |= {name: hidden[: tensor.numel()].view(tensor.shape), "more": hidden}
    torch.save(content, tmp_path / "large.pth")

    write_starting_point(tmp_path / "large.pth", tmp_path / "start.pth", plan)

    start = torch.load(tmp_path / "start.pth", weights_only=True)
    assert set(start) == {"network_weights"} and "more" not in start["network_weights"]
    taken = start["network_weights"][name]
    assert torch.equal(taken, tensor) and taken.untyped_storage().nbytes() == 4 * tensor.numel()


def test_weights_that_are_not_finite_are_refused(fold, plan, tmp_path):
    """A diverged model is no starting point."""
    content = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    next(iter(content["network_weights"].values())).view(-1)[0] = float("nan")
    torch.save(content, tmp_path / "bad.pth")

    with pytest.raises(ConfigError, match="NaN"):
        write_starting_point(tmp_path / "bad.pth", tmp_path / "start.pth", plan)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("name", ["model.zip", "model.pth"])
def test_other_files_are_refused_with_a_sentence(plan, tmp_path, content, name):
    """Empty, text, cut short."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError) as refused:
        write_starting_point(tmp_path / name, tmp_path / "start.pth", plan)
    assert refused.value.hint


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_damaged_file_is_refused_with_a_sentence(tmp_path, packing, is_zip):
    """Bytes changed anywhere: taken with names and shapes as they were, or refused; never a traceback."""
    checkpoint, source = tmp_path / "good.pth", tmp_path / ("bad.zip" if is_zip else "bad.pth")
    weights = {"network_weights": {"a": torch.ones(3, 3)}, "init_args": {"fold": 0}}
    torch.save(weights, checkpoint, _use_new_zipfile_serialization=packing != zipfile.ZIP_LZMA)
    good = zipped(source, checkpoint, packing) if is_zip else checkpoint
    data, random = good.read_bytes(), Random(packing)

    for _ in range(300):
        changed = bytearray(data)
        for place in random.choices(range(len(data)), k=random.randint(1, 4)):
            changed[place] = random.randrange(256)
        source.write_bytes(changed[: random.choice((len(data), random.randrange(len(data))))])
        with suppress(ConfigError):
            _weights_in(source, tmp_path, CONFIGURATION, None)

    assert list(tmp_path.glob(".part-*")) == []


def test_a_name_twice_in_a_zip_is_no_obstacle(fold, plan, tmp_path):
    """Either entry is checked like any other."""
    source = tmp_path / "twice.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.write(fold / "checkpoint_final.pth", LAYOUT)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write(fold / "checkpoint_final.pth", LAYOUT)

    assert write_starting_point(source, tmp_path / "start.pth", plan).source == LAYOUT


def test_a_name_that_a_terminal_would_obey_is_none(fold, plan, tmp_path):
    """The entry's name is printed: letters, digits, dots and hyphens only."""
    source = tmp_path / "escape.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.write(fold / "checkpoint_final.pth", LAYOUT.replace("north", "\x1b[2J"))

    with pytest.raises(ConfigError, match="has no fold"):
        write_starting_point(source, tmp_path / "start.pth", plan)


@pytest.mark.parametrize(
    "shell",
    [
        lambda tensor: torch.empty_like(tensor, device="meta"),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to(torch.complex64),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_tensors_without_plain_numbers_are_refused(fold, plan, tmp_path, shell):
    """Of the right name and shape, and yet nothing to start from."""
    content = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    name, tensor = next(iter(content["network_weights"].items()))
    content["network_weights"][name] = shell(tensor)
    torch.save(content, tmp_path / "shell.pth")

    with pytest.raises(ConfigError, match="plain numbers"):
        write_starting_point(tmp_path / "shell.pth", tmp_path / "start.pth", plan)


def test_a_checkpoint_that_unpacks_to_more_than_is_allowed_is_not_loaded(tmp_path, monkeypatch):
    """A checkpoint is a zip itself: its size on disk says nothing of its size in memory."""
    torch.save({"network_weights": {"a": torch.zeros(250_000)}}, tmp_path / "stored.pth")
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in stored.infolist():
            bomb.writestr(entry.filename, stored.read(entry))
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 100_000)

    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(ConfigError, match="unpacked"):
        checkpoints.read_checkpoint(tmp_path / "bomb.pth")


def test_a_missing_file_is_told(plan, tmp_path):
    """As every command does."""
    with pytest.raises(ConfigError, match="cannot unpack"):
        write_starting_point(tmp_path / "nowhere.zip", tmp_path / "start.pth", plan)


def test_a_zip_without_that_fold_names_those_it_has(fold, plan, tmp_path):
    """The hint says how to choose another."""
    source = zipped(tmp_path / "model.zip", fold / "checkpoint_final.pth")

    with pytest.raises(ConfigError, match="fold_0") as refused:
        write_starting_point(source, tmp_path / "start.pth", plan, fold="3")
    assert "--fold" in refused.value.hint


def test_the_command_says_how_to_use_the_file(fold, tmp_path, capsys):
    """The training's command, with the file."""
    source, target = fold / "checkpoint_final.pth", tmp_path / "start.pth"

    assert main(["import", str(source), "--for", "901", CONFIGURATION, "-o", str(target)]) == 0

    said = capsys.readouterr().out
    assert f"nnUNetv2_train 901 {CONFIGURATION} FOLD" in said and f"-pretrained_weights {target}" in said
    assert main(["import", str(source), "--for", "901", CONFIGURATION, "-o", str(target)]) == 2


def test_a_configuration_that_is_not_planned_is_refused(fold, tmp_path, capsys):
    """With those that are."""
    words = [
        "import",
        str(fold / "checkpoint_final.pth"),
        "--for",
        "901",
        "4d",
        "-o",
        str(tmp_path / "s.pth"),
    ]

    assert main(words) == 2

    assert "no configuration '4d'" in capsys.readouterr().err
