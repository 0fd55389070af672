"""`nnunet-gml watch` and gml_progress.png: the state of a training, read from its files."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest
from courier_kit import build_sites
from matplotlib.image import imread
from nnunet_kit import WaitingTrainer
from report_kit import write_training
from trainer_kit import a_little_further, log_of

from nnunet_gml import progress_picture
from nnunet_gml.cli import main
from nnunet_gml.progress_picture import PICTURE, draw, try_to_draw
from peer_sync.ledger import Ledger


@pytest.fixture
def fold(tmp_path):
    """Twelve of twenty epochs, three rounds with east."""
    folder = tmp_path / "model" / "fold_0"
    write_training(folder, "east", ("brainstem", "eyes\x1b[2J"))
    return folder


def watched(fold, capsys, *words: str) -> str:
    assert main(["watch", str(fold), "--once", *words]) == 0
    return capsys.readouterr().out


def test_a_training_shows_how_far_it_is(fold, capsys):
    """Twelve epochs of 30 s are done, eight are left: 240 s."""
    out = watched(fold, capsys)

    assert "epoch 12 of 20 done, 30.0 s each, about 4 min left" in out
    assert "loss: training -0.550, validation -0.550" in out


def test_the_last_rounds_are_shown(fold, capsys):
    """Peer, epoch, trust, Dice before and after, and the half that was taken over."""
    lines = [line.split() for line in watched(fold, capsys).splitlines()]

    assert ["3", "east", "9", "0.750", "0.500", "0.625", "50%"] in lines
    assert ["1", "east", "(not", "used)", "3", "0.250", "0.500", "0.625", "50%"] in lines


def test_names_cannot_steer_the_terminal(fold, capsys):
    """A class may be called anything."""
    out = watched(fold, capsys)

    assert "eyes?[2J" in out and "\x1b" not in out


def test_a_stock_training_that_has_ended_can_be_looked_at(tmp_path, capsys):
    """No list of rounds; nnU-Net's last checkpoint says that it is over."""
    write_training(tmp_path / "model" / "fold_0", "", rounds=0)
    (tmp_path / "model" / "fold_0" / "checkpoint_final.pth").touch()

    out = watched(tmp_path, capsys)

    assert "the training has ended" in out and "no round with a peer yet" in out


def test_the_newest_training_below_a_folder_is_shown(tmp_path, capsys):
    """The log that was written last."""
    for number, name in enumerate(("old", "new")):
        write_training(tmp_path / name / "fold_0", "east")
        log = next((tmp_path / name / "fold_0").glob("training_log_*"))
        os.utime(log, (1e9 + number, 1e9 + number))

    assert str(tmp_path / "new" / "fold_0") in watched(tmp_path, capsys).replace("\n", "")


def test_the_courier_is_shown_for_a_site(fold, tmp_path, capsys):
    """What `nnunet-gml status` says."""
    site = build_sites(tmp_path / "federation", ("north", "east"))["north"]
    site.folder.mkdir(parents=True, exist_ok=True)
    Ledger(site.folder / "ledger.jsonl").write(
        event="collect",
        peer="east",
        round=4,
        sequence=4,
        verdict="refused",
        rule="norm",
        message="norm is 1e9",
    )

    out = watched(fold, capsys, "--site", str(site.path))

    assert "site north, federation" in out and "norm is 1e9" in out


def test_a_folder_without_a_log_is_an_error(tmp_path, capsys):
    """And says which folder to name."""
    assert main(["watch", str(tmp_path)]) == 2
    assert "fold's output folder" in capsys.readouterr().err


def test_on_a_terminal_it_follows_until_the_training_ends(fold):
    """The screen is redrawn with new epochs; the last checkpoint ends it with code 0."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "nnunet_gml.cli", "watch", str(fold), "--every", "0.5"]
    process = subprocess.Popen(words, stdout=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    heard = b""
    while b"epoch 12 of 20" not in heard:
        heard += os.read(ours, 65536)
    log = next(fold.glob("training_log_*"))
    (fold / "next").write_text(log.read_text().replace("Epoch 11\n", "Epoch 12\n"))
    (fold / "next").replace(log)
    while b"epoch 13 of 20" not in heard:
        heard += os.read(ours, 65536)
    (fold / "checkpoint_final.pth").touch()
    while b"the training has ended" not in heard:
        heard += os.read(ours, 65536)

    assert process.wait(timeout=100) == 0
    os.close(ours)


def test_watching_does_not_load_torch(fold):
    """It starts at once, on any machine that sees the folder."""
    code = "import sys; from nnunet_gml.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "watch", str(fold), "--once"]

    done = subprocess.run(words, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "False"


def test_the_picture_has_its_size_and_leaves_settings_alone(fold):
    """1100 by 700 pixels; nnU-Net draws its own with the settings it has made."""
    with matplotlib.rc_context({"font.size": 31.0}):
        assert draw(fold) == fold / PICTURE
        assert matplotlib.rcParams["font.size"] == 31.0

    assert imread(fold / PICTURE).shape[:2] == (700, 1100)
    assert [path.name for path in fold.glob("*.png")] == [PICTURE]


def test_drawing_does_not_hold_up_a_training(fold):
    """A thousand epochs and a hundred rounds: half a second of this process's time, ten on a slow machine."""
    write_training(fold.parent / "fold_1", "east", epochs=1000, rounds=100)
    draw(fold.parent / "fold_1")
    began = time.process_time()

    draw(fold.parent / "fold_1")

    assert time.process_time() - began < 10


def test_no_picture_before_the_first_epoch(tmp_path):
    """Nothing to draw, nothing written."""
    assert draw(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_failing_picture_is_said_and_nothing_else(fold, monkeypatch):
    """Training goes on."""
    monkeypatch.setattr(progress_picture, "read_rounds", lambda fold: 1 / 0)
    said = []

    try_to_draw(fold, said.append)

    assert said == [f"{PICTURE} could not be drawn: ZeroDivisionError('division by zero')"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_training_draws_it_and_goes_on_where_that_fails(run, monkeypatch):
    """In nnU-Net's own loop: the first round's picture cannot be drawn, the one at the end can."""
    calls = []

    def fail_at_first(fold):
        calls.append(fold)
        return draw(fold) if len(calls) > 1 else 1 / 0

    monkeypatch.setattr(progress_picture, "draw", fail_at_first)

    trained = run(WaitingTrainer, peer=a_little_further)

    assert trained.current_epoch == 3 and len(calls) == 2
    assert "gml_progress.png could not be drawn" in log_of(trained)
    assert (Path(trained.output_folder) / PICTURE).exists()
