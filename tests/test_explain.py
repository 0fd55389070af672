"""`nnunet-gml explain`: the list of rounds as tables, as JSON and as a picture."""

from __future__ import annotations

import json
import math

import pytest
from matplotlib.image import imread

from nnunet_gml.cli import main
from nnunet_gml.explanation import mean_trust, read_rounds
from nnunet_gml.rounds import _write

CLASSES = ["brainstem", "eyes"]
LAST = ["0.637", "0.600", "25%"]


def met(number: int, peer: str, **changes: object) -> dict:
    """What a training writes when a peer's weights come."""
    return {
        "event": "met",
        "round": number,
        "epoch": 10 * number,
        "peer": peer,
        "sequence": number,
        "used": True,
        "weight": 0.25,
        "classes": CLASSES,
        "trust": [0.5, 1.0],
        "dice_peer": [0.6, None],
        "dice_ours": [0.5, 0.7],
        **changes,
    }


def left(number: int, peer: str, **changes: object) -> dict:
    """What it writes when the peer leaves."""
    return {
        "event": "left",
        "round": number,
        "epoch": 10 * number,
        "peer": peer,
        "sequence": number,
        "epochs": 5,
        "ratio": 0.125,
        "mask_share": [0.01, None],
        "dice_peer": [0.6, None],
        "dice_ours": [0.55, 0.7],
        "dice_merged": [0.575, 0.7],
        "merged": 0.25,
        **changes,
    }


@pytest.fixture
def run(tmp_path):
    """Write a list of rounds into a fold's folder."""

    def write(*records: dict, tail: str = ""):
        folder = tmp_path / "fold_0"
        folder.mkdir()
        text = "".join(json.dumps(record) + "\n" for record in records) + tail
        (folder / "gml_rounds.jsonl").write_text(text)
        return folder

    return write


def test_a_round_joins_its_coming_and_its_leaving(run):
    """Dice before, after, and their difference per class; what is missing is nan."""
    (found,) = read_rounds(run(met(1, "east"), left(1, "east")))

    assert (found.peer, found.epoch, found.epochs, found.ratio, found.merged) == ("east", 10, 5, 0.125, 0.25)
    assert found.gain == pytest.approx((0.05, 0.0))
    assert found.mask_share[0] == 0.01 and math.isnan(found.mask_share[1])
    assert math.isnan(found.dice_peer[1])
    assert found.dice_merged == (0.575, 0.7)


def test_a_round_that_was_begun_again_counts_once(run):
    """After a kill the peer comes again: the old leaving is not the new one's."""
    folder = run(met(1, "east"), left(1, "east"), met(1, "east", trust=[0.75, 0.0]))

    (found,) = read_rounds(folder)

    assert found.trust == (0.75, 0.0)
    assert math.isnan(found.ratio)


def test_half_a_line_is_skipped(run):
    """A killed process may leave one."""
    assert len(read_rounds(run(met(1, "east"), tail='{"event": "met", "rou'))) == 1


def test_a_line_behind_half_a_line_is_read(run):
    """A full disk has left half of one; the next begins on a line of its own."""
    folder = run(met(1, "east"), tail='{"event": "met", "rou')

    _write(folder, **met(2, "west"))

    assert [found.peer for found in read_rounds(folder)] == ["east", "west"]


def test_mean_trust_is_per_peer_and_class(run):
    """east: (0.5 + 1.0) / 2 = 0.75 and (1.0 + 0.5) / 2 = 0.75; west once."""
    rounds = read_rounds(run(met(1, "east"), met(2, "west"), met(3, "east", trust=[1.0, 0.5])))

    assert mean_trust(rounds) == {"east": (0.75, 0.75), "west": (0.5, 1.0)}


def test_the_tables_say_who_gave_what(run, capsys, monkeypatch):
    """One line a round, trust per class and peer; a peer that was not trusted stands in brackets."""
    monkeypatch.setenv("COLUMNS", "120")
    folder = run(met(1, "east"), left(1, "east"), met(2, "west", used=False, trust=[0.0, 0.0]))

    assert main(["explain", str(folder), "--classes", "--no-picture"]) == 0

    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if line.startswith("1 "))
    assert first.split() == ["1", "10", "east", "0.75", "0.25", "0.12", "5", "0.600", "0.625", *LAST]
    assert "(west)" in said
    assert next(line.split() for line in said.splitlines() if line.startswith("eyes")) == [
        "eyes",
        "1.00",
        "0.00",
    ]
    assert not (folder / "gml_rounds.png").exists()


def test_the_picture_is_written_beside_the_list(run, capsys):
    """A PNG that can be read, wide enough for its rounds, and not empty."""
    folder = run(met(1, "east"), left(1, "east"), met(2, "west"), left(2, "west"))

    assert main(["explain", str(folder)]) == 0

    picture = imread(folder / "gml_rounds.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    assert "gml_rounds.png" in capsys.readouterr().out


def test_averages_have_a_picture_too(run):
    """The baselines know no classes, only peers and shares."""
    averaged = {"event": "averaged", "round": 1, "epoch": 10, "peer": "east", "sequence": 1, "merged": 0.5}
    folder = run(averaged)

    assert main(["explain", str(folder)]) == 0

    (found,) = read_rounds(folder)
    assert found.merged == 0.5 and found.classes == ()
    assert (folder / "gml_rounds.png").exists()


def test_json_knows_no_nan(run, capsys):
    """The same facts for a program, for every fold below a folder."""
    folder = run(met(1, "east"))

    assert main(["explain", str(folder.parent), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert facts[str(folder)][0]["dice_peer"] == [0.6, None]


def test_a_folder_without_a_list_says_where_to_look(tmp_path, capsys):
    """Exit code 2; names the folder, and an example of the right one."""
    assert main(["explain", str(tmp_path)]) == 2

    said = capsys.readouterr().err
    assert str(tmp_path) in said and "fold_0" in said
