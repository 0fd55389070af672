"""Trying again: until it works, until nobody waits, never after an answer."""

import pytest

from peer_sync.errors import RejectedError, TransportError
from peer_sync.persistence import LONGEST_WAIT_SECONDS, keep_trying


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
