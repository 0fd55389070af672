"""benchmarks/speed_stall.py: its clock and its shares by hand, and a real trainer's rounds."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest


def test_an_inner_stage_is_not_counted_in_the_outer_one(bench):
    """1 s before, 2 s within, 3 s after the inner stage; 84 s outside are nobody's; 5 s inside again."""
    times = iter([10.0, 11.0, 13.0, 16.0, 100.0, 105.0])
    stages = bench("speed_stages").Stages(clock=lambda: next(times))

    with stages.stage("outer"), stages.stage("inner"):
        pass
    with stages.stage("inner"):
        pass

    assert stages.seconds == {"outer": 4.0, "inner": 7.0}


def test_a_stage_that_fails_is_counted_and_ended(bench):
    """What comes after it is not its own."""
    times = itertools.count()
    stages = bench("speed_stages").Stages(clock=lambda: float(next(times)))

    def fail():
        raise ValueError

    owner = SimpleNamespace(fail=fail, work=lambda number: number + 1)
    stages.watch(owner, "fail", "failing")
    stages.watch(owner, "work", "working")
    with pytest.raises(ValueError):
        owner.fail()

    assert owner.work(1) == 2
    assert stages.seconds == {"failing": 1.0, "working": 1.0}


def test_queued_work_counts_where_it_was_ordered(bench):
    """Every border waits for the GPU first: here, each time for 5 s."""
    now = [0.0]

    def settle():
        now[0] += 5.0

    stages = bench("speed_stages").Stages(settle, lambda: now[0])
    with stages.stage("copy"):
        pass

    assert stages.seconds == {"copy": 5.0}


def row(offering: float, gating: float, line: str = "loopback", size: str = "standard") -> dict:
    """Steps of 1 s, validation steps of 1/3 s; three rounds, the last an outlier."""
    rounds = [
        {"stages": {"offering": seconds, "gating": gating}, "background": {"seconds": 9, "cpu_seconds": 1}}
        for seconds in (offering, offering, 100 * offering)
    ]
    steps = {"step_seconds": [1.0] * 3, "validation_seconds": [1 / 3] * 3, "steps_per_epoch": [250, 50]}
    facts = {"parameters": 31_000_000, "patch": [32, 32, 64], "gate_batches": 8, "rounds": rounds}
    return {"size": size, "line": line, **facts, **steps}


def test_shares_by_hand(bench):
    """9 h for 1,000 epochs: 324 s for ten; 1.62 s are 0.5 %. An epoch: 250 + 50/3 = 266.7 s; 8 s are 3 %."""
    table = bench("speed_stall").targets([row(1.62, 8.0)])

    assert table[1][2:] == ["waiting, of a round", "1.62", "0.50%", "0.5%", "met"]
    assert table[2][3:] == ["1.62", "0.50%", "-", ""]
    assert table[3][2:] == ["gating, of an epoch", "8.00", "3.0%", "1%", "**missed**"]


def test_a_larger_network_has_longer_rounds(bench):
    """35 h: 1,260 s; gating is only told where all batches were looked at."""
    far = row(12.6, 8.0, "20 Mbit/s, 80 ms", "resenc-l")
    module = bench("speed_stall")

    assert module.round_seconds("resenc-l") == pytest.approx(1260)
    assert "gating, of an epoch" not in [cells[2] for cells in module.targets([far])]
    assert module.targets([far])[1][-3:] == ["1.00%", "0.5%", "**missed**"]
    assert module.stages([far])[1][6] == "-"


@pytest.mark.slow
def test_a_real_trainer_lives_through_rounds_over_both_lines(bench, tmp_path, monkeypatch):
    """Every stage of a round takes time; the page is made from JSON."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, "")  # the planner sets them; the next test has its own
    module = bench("speed_stall")
    settings = bench("speed_settings").Settings(tmp_path, quick=True, repetitions=1, device="cpu")

    found = json.loads(json.dumps(module.measure(settings)))

    assert [each["line"] for each in found["rows"]] == list(module.LINES)
    for each in found["rows"]:
        (only,) = each["rounds"]
        assert set(only["stages"]) == set(module.STAGES)
        assert all(seconds > 0 for seconds in only["stages"].values())
    assert "waiting, of a round" in module.tables(found)
