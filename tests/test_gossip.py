"""The schedule."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer_sync.errors import ConfigError
from peer_sync.gossip import draw_peer, is_round_end, round_number

NAMES = st.text("abcdefghij-0123456789", min_size=1, max_size=8)


def test_rounds_by_hand():
    """Warm-up 50, then every 10: exchanges after epochs 50, 60, 70 are rounds 1, 2, 3."""
    ends = [epochs for epochs in range(80) if is_round_end(epochs, 50, 10)]

    assert ends == [50, 60, 70]
    assert [round_number(epochs, 50, 10) for epochs in (0, 49, 50, 59, 60, 75)] == [0, 0, 1, 1, 2, 3]


@given(warmup=st.integers(0, 30), length=st.integers(1, 12), epochs=st.integers(1, 200))
def test_the_round_grows_exactly_at_its_end(warmup, length, epochs):
    """An exchange is due in just those epochs in which the number grows."""
    grew = round_number(epochs, warmup, length) > round_number(epochs - 1, warmup, length)

    assert grew == (is_round_end(epochs, warmup, length))


@given(seed=st.integers(), site=NAMES, round=st.integers(0, 10**6), others=st.sets(NAMES, min_size=1))
def test_a_site_is_never_paired_with_itself(seed, site, round, others):
    """Even when the list of peers contains it."""
    others.add(site + "x")

    assert draw_peer(seed, site, round, [*others, site]) in others - {site}


@given(seed=st.integers(), round=st.integers(0, 1000), others=st.lists(NAMES, min_size=2, unique=True))
def test_the_order_of_peers_does_not_matter(seed, round, others):
    """The same federation gives the same schedule."""
    site = "zz"

    assert draw_peer(seed, site, round, others) == draw_peer(seed, site, round, others[::-1])


def test_every_peer_gets_its_share():
    """4000 rounds, four peers: 1000 each; five standard deviations are 5 * sqrt(4000 * 1/4 * 3/4) = 137."""
    counts = Counter(draw_peer(1, "north", round, ["a", "b", "c", "d"]) for round in range(4000))

    assert set(counts) == {"a", "b", "c", "d"}
    assert all(abs(count - 1000) < 137 for count in counts.values())


def test_nobody_to_draw_is_an_error():
    """A federation of one has no gossip."""
    with pytest.raises(ConfigError, match="no peer"):
        draw_peer(1, "north", 1, ["north"])
