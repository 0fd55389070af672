"""Clocks that are wrong or stand still."""

from __future__ import annotations

import pytest
from process_kit import end, wait_for
from state_kit import ledger, visible_offers

HOUR = 3600
DAYS = 24 * HOUR


@pytest.mark.parametrize("shift", [HOUR, -HOUR], ids=["fast", "slow"])
def test_the_peers_clock_is_wrong(start_both, shift):
    """The peer's clock is an hour fast, or an hour slow.

    Both sites take each other's weights at the first attempt, and nobody says a word.
    """
    north, south = start_both("--clock-shift", str(shift), patient=True)
    south.offer(1)
    north.offer(1)

    north.exchange(2, "south")
    south.exchange(2, "north")

    assert north.accepted(2, "south")["retries"] == 0
    assert south.accepted(2, "north")["retries"] == 0
    assert north.said() + south.said() == ""
    end(north, south)


def test_our_clock_jumps_back_between_two_starts(pair, start, start_both):
    """This site's clock is set back by an hour between two starts.

    Its numbers go on rising, and its peers take the newer offer, whose time is the older one.
    """
    north, south = start_both()
    first = south.offer(1)
    north.exchange(1, "south")
    north.accepted(1, "south", 1)
    south.end()

    south = start("south", "--clock-shift", str(-HOUR))
    second = south.offer(2)
    north.exchange(2, "south")

    north.accepted(2, "south", 2)
    times = {number: offer.created for number, offer in visible_offers(pair.south).items()}
    assert second > first
    assert times[second] < times[first]
    end(north, south)


def test_an_offer_from_the_distant_past(start, start_both):
    """The peer's clock is a month and a day slow, so its offers have expired when they are made.

    Refused by rule expired; the hint speaks of clocks; with the clock right the next offer is taken.
    """
    north, south = start_both("--clock-shift", str(-31 * DAYS))
    south.offer(1)

    north.exchange(1, "south")
    message = north.next("say")["say"]
    assert message.startswith("peer 'south', round 1, rule expired: ")
    assert "clocks is wrong" in message
    south.end()
    south = start("south")
    south.offer(2)
    north.exchange(2, "south")

    north.accepted(2, "south", 2)
    end(north, south)


def test_two_offers_in_one_second(pair, start_both):
    """Two offers are made in the same second; the clock stands still.

    Each has its own number, and the newer one is taken.
    """
    north, south = start_both("--clock-stopped", "2026-11-21T12:00:00+00:00")
    numbers = [south.offer(1), south.offer(2)]
    offers = visible_offers(pair.south)
    assert len(set(numbers)) == 2
    assert len({offer.created for offer in offers.values()}) == 1

    north.exchange(1, "south")

    assert north.accepted(1, "south", 2)["sequence"] == max(numbers)
    end(north, south)


def test_two_rounds_in_one_second(start_both):
    """Two rounds end in the same second, faster than the courier works.

    The newer weights are out in any case, and the peer's come for the newer round.
    """
    north, south = start_both()
    south.offer(1)
    north.exchange(1, "south")

    north.exchange(2, "south")

    wait_for(lambda: ledger(north.site, event="offer", round=2, verdict="offered"), "offer of round 2")
    newest = max(visible_offers(north.site).items())[1]
    assert newest.round == 2
    north.next("accepted")
    end(north, south)
