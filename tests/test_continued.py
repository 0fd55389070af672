"""``--c`` after a kill: rounds, peers, trust and numbers of offers go on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
from continued_kit import EPOCHS, NAMES, Fold, Steady, offers
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from trainer_kit import log_of, rounds

from nnunet_gml.explanation import read_rounds
from nnunet_gml.phantom import ORGANS
from peer_sync.gossip import draw_peer

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)

OTHER_PATCHES = "the fixed validation patches are not those of before"


@pytest.fixture(scope="module")
def patched():
    """Without pictures, which take longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalLogger, "plot_progress_png", lambda *arguments: None)
        patch.setattr("nnunet_gml.progress_picture.draw", lambda fold: None)
        yield patch


@pytest.fixture(scope="module")
def new_fold(phantom_data, tmp_path_factory, patched):
    """Call it with attributes of the trainer."""

    def new(**attributes: object) -> Fold:
        return Fold(tmp_path_factory.mktemp("sites"), phantom_data(), patched, **attributes)

    return new


@pytest.fixture(scope="module")
def whole(new_fold) -> Steady:
    """The training that nobody has killed."""
    return new_fold().train()


def schedule(trainer) -> list[tuple]:
    """Round, peer, λ, trust, first epoch with it, and how many."""
    read = read_rounds(Path(trainer.output_folder))
    return [(r.number, r.peer, r.weight, r.trust, r.epoch, r.epochs) for r in read]


def test_the_schedule_of_three_sites_is_what_the_seed_gives(whole):
    """By hand: λ a third of 0.5 more in each round; trust 1 - lead/0.2, with south's mean of 0.9 and 0.7.

    The mandible is south's and east's own word, 0.5; from the first meeting on it may hide.
    """
    drawn = [draw_peer(7, "north", round_, NAMES) for round_ in (1, 2, 3)]
    trust = [[0.5 if name == "mandible" else value for name in ORGANS] for value in (0.9, 0.8, 0.8)]

    assert drawn == ["south", "east", "south"]
    assert schedule(whole) == [
        (number, peer, pytest.approx(0.5 * number / 3), pytest.approx(values), epoch, 2)
        for number, peer, values, epoch in zip((1, 2, 3), drawn, trust, (2, 5, 8), strict=True)
    ]
    assert offers(whole) == [(1, 1), (2, 2), (3, 3)]
    hidden = {epoch: seen.hidden for epoch, seen in whole.seen.items()}
    assert not any(hidden[1]) and hidden[2] == [name == "mandible" for name in ORGANS]


@pytest.mark.parametrize(
    ("killed_at", "unanswered", "sequences"),
    [
        pytest.param("epoch 6", 0, [1, 2, 3], id="while a peer is here"),
        pytest.param("epoch 7", 0, [1, 2, 3], id="after it has left"),
        pytest.param("round 2", 0, [1, 2, 3], id="before a round is begun"),
        pytest.param("arrival 2", 0, [1, 2, 3, 4], id="before what has come is looked at"),
        pytest.param("epoch 6", 2, [1, 2, 3, 4], id="while nothing has come"),
    ],
)
def test_a_training_that_was_killed_keeps_the_schedule(new_fold, whole, killed_at, unanswered, sequences):
    """Rounds, peers, λ, trust, hidden classes, patches; an offer's number is never given twice."""
    fold = new_fold()
    first = fold.train(killed_at=killed_at, unanswered=unanswered)
    again = fold.train(continued=True)

    assert max(first.seen) < EPOCHS - 1 and {*first.seen, *again.seen} == {*range(EPOCHS)}
    assert schedule(again) == schedule(whole)
    assert again.seen == {epoch: whole.seen[epoch] for epoch in again.seen}
    assert [sequence for _, sequence in offers(again)] == sequences
    assert {round_ for round_, _ in offers(again)} == {1, 2, 3}
    is_begun_again = killed_at in ("round 2", "arrival 2") or unanswered == 2
    assert ("continued: round 2 is begun again" in log_of(again)) == is_begun_again
    assert OTHER_PATCHES not in log_of(again)


def test_a_peer_that_was_here_at_a_rounds_end_goes_on_where_it_was(new_fold):
    """It leaves with the epochs and the pull of its whole stay, and the round that was due is begun."""
    fold = new_fold(mutual_epochs=3)
    whole = new_fold(mutual_epochs=3).train()
    fold.train(killed_at="round 2")
    again = fold.train(continued=True)

    assert schedule(again) == schedule(whole)
    assert again.seen == {epoch: whole.seen[epoch] for epoch in range(5, EPOCHS)}
    (ours,), (theirs,) = (
        [line for line in rounds(trainer) if line["event"] == "left" and line["round"] == 1]
        for trainer in (again, whole)
    )
    assert ours["epochs"] == 3 and ours["mask_share"] == theirs["mask_share"]
    assert ours["distillation"] == theirs["distillation"]
    assert "continued with site south, until epoch 5" in log_of(again)


def test_a_peer_that_was_not_trusted_is_not_met_again(new_fold):
    """Killed in the same epoch: trust in it is 0 as it was, and its round is over."""
    fold = new_fold(behind={1: 0.02, 2: 0.04, 3: 0.3}, contoured=ORGANS)
    first = fold.train(killed_at="epoch 8")
    again = fold.train(continued=True)

    assert first.seen[8].trust["south"] == [0.0] * len(ORGANS) and first.seen[8].visit is None
    assert again.seen == {8: first.seen[8], 9: first.seen[8]}
    assert offers(again) == [(1, 1), (2, 2), (3, 3)]


def test_other_patches_than_before_are_said(new_fold):
    """Another seed in federation.toml, other patches; the training goes on."""
    fold = new_fold()
    first = fold.train(killed_at="round 2")
    fold.rewrite("seed = 7", "seed = 8")
    again = fold.train(continued=True, killed_at="epoch 5")

    assert again.seen[5].patches != first.seen[4].patches
    assert f"{OTHER_PATCHES}: data, split or seed has changed" in log_of(again)
