"""How far a run is, from nnU-Net's logs and from a forecast."""

import io

import pytest
from rich.console import Console

from nnunet_gml.simulation.progress import Display, Forecast, Step, clock, epochs_done, epochs_in

LOG = """
2026-11-21 22:11:01.101: Epoch 0
2026-11-21 22:11:01.102: Current learning rate: 0.01
2026-11-21 22:11:09.500: Epoch time: 8.4 s
2026-11-21 22:11:09.600: Epoch 1
"""


def test_epochs_of_a_log():
    """Epoch 0 is over, epoch 1 has begun: one epoch done, two once its time is printed."""
    assert epochs_done("") == 0
    assert epochs_done(LOG) == 1
    assert epochs_done(LOG + "2026-11-21 22:11:18.000: Epoch time: 8.4 s\n") == 2


def test_a_resumed_log_counts_from_its_last_start():
    """After --c the epochs go on from the checkpoint, which may be earlier than where the log was."""
    assert epochs_done(LOG + "2026-11-21 23:00:00.000: Epoch 0\n") == 0


def test_no_log_yet(tmp_path):
    """Before nnU-Net writes its first line nothing is done."""
    assert epochs_in(tmp_path / "train.log") == 0


def test_clock():
    """Minutes are not cut at an hour."""
    assert clock(3725) == "62:05"


def test_forecast_by_hand():
    """Guesses 10, 30, 20. Step 1 took 20, so twice as long as guessed; half of step 2 in 30 seconds.

    Guessed so far 10 + 15 = 25, spent 20 + 30 = 50; with ten seconds of faith in the guesses the pace is
    60 / 35. Left: (15 + 20) * 60 / 35 = 60.
    """
    forecast = Forecast([Step("a", 10), Step("b", 30), Step("c", 20)])
    forecast.close(0, elapsed_seconds=20)

    assert forecast.left(1, fraction=0.5, elapsed_seconds=30) == pytest.approx(60)


def test_plain_lines_without_a_terminal():
    """Step, epochs and the time left are in the first line of a step; no control characters."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=False, width=60)

    with Display([Step("train T", 60)], ["a", "b"], console) as display:
        display.begin(0)
        display.update({"a": 0.5, "b": 0.25}, {"a": "epoch 2 of 4", "b": "epoch 1 of 4"})
        display.update({"a": 0.5, "b": 0.25}, {"a": "epoch 2 of 4", "b": "epoch 1 of 4"})

    lines = text.getvalue().splitlines()
    assert lines[0] == "step 1 of 1: train T"
    assert lines[1].startswith("  step 1 of 1: a epoch 2 of 4, b epoch 1 of 4; 0:00 gone, about ")
    assert "\x1b" not in text.getvalue()
    assert [line for line in lines[2:] if line.strip()] == []
