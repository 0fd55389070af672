"""Trying again: until it works, until nobody waits, never after an answer."""

import pytest

from peer_sync.errors import NotFoundError, RejectedError, TransportError
from peer_sync.persistence import LONGEST_WAIT_IN_STEP_SECONDS, LONGEST_WAIT_SECONDS, keep_trying


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or TransportError("down")
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"


def test_a_failure_is_told_and_tried_again():
    """Two failures, then the answer; the second pause is twice the first."""
    told, pauses = [], []

    answer = keep_trying(Flaky(2), told.append, lambda seconds: bool(pauses.append(seconds)))

    assert answer == "answer"
    assert [str(error) for error in told] == ["down", "down"]
    assert pauses == [0.5, 1.0]


def test_pauses_have_an_upper_bound():
    """After many failures it is still tried twice a minute."""
    pauses = []

    keep_trying(Flaky(20), lambda error: None, lambda seconds: bool(pauses.append(seconds)))

    assert max(pauses) == pauses[-1] == LONGEST_WAIT_SECONDS == 30


def test_in_step_what_is_not_there_yet_is_looked_for_every_few_seconds():
    """0.5, 1, 2 and then every 4 s: a whole round waits for it."""
    pauses = []

    keep_trying(
        Flaky(6, NotFoundError("not yet")),
        lambda error: None,
        lambda seconds: bool(pauses.append(seconds)),
        in_step=True,
    )

    assert pauses == [0.5, 1, 2, 4, 4, 4]
    assert LONGEST_WAIT_IN_STEP_SECONDS == 4


def test_in_step_a_peer_that_cannot_be_reached_is_asked_as_rarely_as_ever():
    """30 s at the longest; as soon as it answers, every 4 s again."""
    pauses = []
    errors = iter([*[TransportError("down")] * 8, NotFoundError("not yet"), NotFoundError("not yet")])

    def work() -> str:
        for error in errors:
            raise error
        return "answer"

    keep_trying(work, lambda error: None, lambda seconds: bool(pauses.append(seconds)), in_step=True)

    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 4, 4]


def test_the_last_failure_is_raised_when_nobody_waits_any_more():
    """The pause says that the round is over."""
    work = Flaky(5)

    with pytest.raises(TransportError, match="down"):
        keep_trying(work, lambda error: None, lambda seconds: work.calls == 3)

    assert work.calls == 3


def test_a_refusal_is_never_tried_again():
    """It is an answer, not a failure."""
    work = Flaky(1, RejectedError("size", "too large"))

    with pytest.raises(RejectedError):
        keep_trying(work, lambda error: None, lambda seconds: False)

    assert work.calls == 1
