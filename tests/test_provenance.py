"""`nnunet-gml provenance`: which peer touched which epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nnunet_kit import WaitingTrainer
from trainer_kit import a_little_further

from nnunet_gml.cli import main
from nnunet_gml.provenance import Touch, touches


def record(event: str, number: int, peer: str, **facts: object) -> dict:
    """A line as a training writes it."""
    return {"event": event, "round": number, "peer": peer, "sequence": 10 * number, "epoch": number, **facts}


@pytest.fixture
def fold(tmp_path):
    """Write a list of rounds into a fold's folder."""

    def write(*records: dict, number: int = 0, tail: str = ""):
        folder = tmp_path / f"fold_{number}"
        folder.mkdir()
        (folder / "gml_rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records) + tail)
        return folder

    return write


class Mutual(WaitingTrainer):
    pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_real_training_writes_what_is_read_here(run):
    """South's first offer, from the end of the warm-up to the end of the training, and nobody else."""
    ours = run(Mutual, peer=a_little_further)

    (touch,) = touches(Path(ours.output_folder))

    assert (touch.peer, touch.round, touch.sequence, touch.way) == ("south", 1, 1, "learnt with")
    assert (touch.first_epoch, touch.last_epoch) == (1, 2)


def test_a_peer_that_was_learnt_from_has_its_epochs(fold):
    """From the epoch before which it came, as many as were begun with it; what was merged is told."""
    folder = fold(
        record("met", 1, "east", epoch=10, used=True),
        record("left", 1, "east", epoch=15, epochs=5, merged=0.25),
    )

    assert touches(folder) == [Touch("east", 1, 10, "learnt with", 10, 14, 0.25)]


def test_an_averaged_peer_has_its_share(fold):
    """Two peers of one round."""
    folder = fold(*(record("averaged", 2, peer, epoch=20, merged=0.3) for peer in ("east", "west")))

    assert touches(folder) == [Touch(peer, 2, 20, "averaged", 20, 20, 0.3) for peer in ("east", "west")]


def test_a_peer_that_was_only_compared_touched_nothing(fold):
    """Trusted in no class: its weights were scored and dropped."""
    assert touches(fold(record("met", 1, "east", used=False))) == []


def test_a_visit_without_an_end_stays_open(fold):
    """The training was killed, or still runs; a half line at the end is skipped."""
    (found,) = touches(fold(record("met", 1, "east", epoch=10, used=True), tail='{"event": "le'))

    assert (found.first_epoch, found.last_epoch) == (10, None)


def test_a_beginning_that_was_lost_in_a_kill_is_kept(fold):
    """Another offer of the same peer came in the same round: both are told, better one too many."""
    folder = fold(
        record("met", 1, "east", used=True),
        record("met", 1, "east", used=True, sequence=11),
        record("left", 1, "east", sequence=11, epochs=1),
    )

    assert [(touch.sequence, touch.last_epoch) for touch in touches(folder)] == [(10, None), (11, 1)]


def test_the_table_names_peers_and_epochs(fold, capsys):
    """One line for each offer, and a sentence at the end."""
    folder = fold(
        record("met", 1, "east", epoch=10, used=True),
        record("left", 1, "east", epochs=5, merged=0.25),
        record("averaged", 2, "west", epoch=20, merged=0.5),
        record("met", 3, "south", epoch=30, used=True),
    )

    assert main(["provenance", str(folder)]) == 0

    said = capsys.readouterr().out
    assert "10 to 14" in said and "learnt with, 25% merged" in said
    assert "averaged, share 50%" in said and "30 to ?" in said
    assert "weights of east, south, west touched 1 run\n" in said


def test_a_site_that_touched_a_run_gives_exit_code_1(fold, tmp_path, capsys):
    """For a script after a withdrawal, over all folds; other peers do not count."""
    fold(record("averaged", 1, "east"), number=0)
    fold(record("averaged", 1, "west"), number=1)

    assert main(["provenance", str(tmp_path), "--site", "east"]) == 1
    assert "weights of east touched 1 of 2 runs" in capsys.readouterr().out
    assert main(["provenance", str(tmp_path), "--site", "south"]) == 0
    assert "weights of south touched none of 2 runs" in capsys.readouterr().out


def test_the_same_facts_for_a_program(fold, capsys):
    """One list for each run; the exit code is the same."""
    folder = fold(record("averaged", 1, "east", merged=0.5))

    assert main(["provenance", str(folder), "--json", "--site", "east"]) == 1

    (touch,) = json.loads(capsys.readouterr().out)[str(folder)]
    assert touch == {
        "peer": "east",
        "round": 1,
        "sequence": 10,
        "way": "averaged",
        "first_epoch": 1,
        "last_epoch": 1,
        "share": 0.5,
    }


def test_a_run_without_a_list_is_no_answer(tmp_path, capsys):
    """Exit code 2: nobody can tell from this folder."""
    assert main(["provenance", str(tmp_path), "--site", "east"]) == 2
    assert "no gml_rounds.jsonl" in capsys.readouterr().err


def test_a_long_path_stays_in_one_piece(fold, tmp_path, capsys):
    """A script, or a person with a mouse, takes it whole."""
    long = tmp_path / ("deep" * 20) / ("deeper" * 20)
    long.mkdir(parents=True)
    folder = fold(record("averaged", 1, "east")).rename(long / "fold_0")

    assert main(["provenance", str(folder)]) == 0
    assert f"{folder}\n" in capsys.readouterr().out
