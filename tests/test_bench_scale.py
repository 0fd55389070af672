"""benchmarks/speed_scale.py and speed_schedule.py: sums by hand, and real couriers of two sites."""

from __future__ import annotations

import json
import math
import socket
import threading

import pytest

from peer_sync.gossip import draw_peer

FIGURES = {"median": 1.0, "least": 0.5, "most": 2.0}


def crowd(sites: int, factor: float = 1.0) -> dict:
    """What one federation came to; bytes and CPU seconds times ``factor``."""
    scaled = {name: factor * value for name, value in FIGURES.items()}
    facts = {"rounds_done": 1.0, "bytes": scaled, "cpu_seconds": FIGURES, "wait_seconds": FIGURES}
    return {"sites": sites, **facts, "complaints": 0}


def found_scale(factor: float) -> dict:
    """2 and 32 sites."""
    crowds = [crowd(2), crowd(32, factor)]
    return {"crowds": crowds, "rounds": 3, "round_seconds": 5.0, "payload_bytes": 262144}


def test_a_cost_that_grows_with_the_federation_is_missed(bench):
    """By hand: twice the bytes over 1.25 at most; the same CPU seconds are within it."""
    lines = bench("speed_scale").tables(found_scale(2.0)).splitlines()

    assert "| bytes fetched | 2.00 | 1.25 | **missed** |" in lines
    assert "| CPU seconds | 1.00 | 1.25 | met |" in lines


def test_real_couriers_of_two_sites_fetch_in_every_round(bench, tmp_path):
    """256 KiB, manifest and signature per site and round, and CPU seconds that are those of two processes."""
    module = bench("speed_scale")

    found = module.run_crowd(tmp_path / "two", 2, rounds=2, pace_seconds=0.0)

    assert found["rounds_done"] == 1.0 and found["complaints"] == 0
    assert 1.0 < found["bytes"]["least"] / module.PAYLOAD_BYTES < 1.01
    assert 0 < found["cpu_seconds"]["least"] < 10
    json.dumps(found)


def test_a_line_counts_what_passes_each_way(bench):
    """By hand: 5 bytes there, 3 bytes back, in each of two connections."""
    line_to = bench("speed_line").line_to
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_twice, args=(server,), daemon=True).start()
        with line_to(server.getsockname()[1]) as line:
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", line.port)) as client:
                    client.sendall(b"hello")
                    assert receive(client, 3) == b"bye"
            passed = line.passed_bytes()

    assert passed == {"to_server": 10, "to_client": 6}


def answer_twice(server: socket.socket) -> None:
    """Three bytes for five, in two connections."""
    for _ in range(2):
        sock, _ = server.accept()
        with sock:
            receive(sock, 5)
            sock.sendall(b"bye")


def receive(sock: socket.socket, count: int) -> bytes:
    """So many bytes."""
    found = b""
    while len(found) < count:
        found += sock.recv(count - len(found))
    return found


def test_weights_of_a_ring_take_a_round_for_each_step(bench):
    """By hand: 0 fetches from 1, 1 from 2, 2 from 0; after two rounds everybody has everybody's."""
    drawn = [[1, 2, 0]] * 3

    found = bench("speed_schedule").course(drawn, [set()] * 3)

    assert found == {"reached": 2, "hottest": [1, 1, 1], "busiest": 1.0, "files": 1.0}


def test_what_is_fetched_in_a_round_is_what_was_offered_at_its_beginning(bench):
    """By hand: 0 fetches from 2, 1 and 2 from 0; then 0 from 1, and has all; 2 from 0, too early."""
    course = bench("speed_schedule").course
    drawn = [[2, 0, 0], [1, 0, 0], [1, 0, 0]]

    assert course(drawn[:2], [set()] * 2)["reached"] is None
    assert course(drawn, [set()] * 3)["reached"] == 3


def test_a_site_that_is_away_neither_fetches_nor_is_fetched_from(bench):
    """By hand: all draw 0, and 0 draws 1; without 0 nothing moves; without 2, 0 and 1 fetch: 2 of 3 sites."""
    course = bench("speed_schedule").course
    drawn = [[1, 0, 0]]

    nothing, without_last = course(drawn, [{0}]), course(drawn, [{2}])

    assert nothing["files"] == 0 and nothing["hottest"] == [0] and math.isnan(nothing["busiest"])
    assert without_last["files"] == pytest.approx(2 / 3) and without_last["hottest"] == [1]


def test_a_hot_outbox_is_seen(bench):
    """By hand: 1, 2 and 3 fetch from 0, which fetches from 1: 3 of 4 fetches, 3 times the mean of 1."""
    found = bench("speed_schedule").course([[1, 0, 0, 0]] * 2, [set()] * 2)

    assert found["hottest"] == [3, 3] and found["busiest"] == 3.0


def test_peers_are_those_that_trainings_draw(bench):
    """The product's own draw, for every site and round."""
    drawn = bench("speed_schedule").draws(sites=5, rounds=3, seed=7)

    names = [f"site-{number:04}" for number in range(5)]
    expected = [[names.index(draw_peer(7, name, each, names)) for name in names] for each in (1, 2, 3)]
    assert drawn == expected


def test_so_many_are_away_in_each_round(bench):
    """30 % of 10 sites, in each round others."""
    away = bench("speed_schedule").absences(10, 20, 0.3, seed=1)

    assert {len(absent) for absent in away} == {3}
    assert len(set(map(frozenset, away))) > 10


def row(sites: int, reached: float, away: float = 0.0) -> dict:
    """One federation's result."""
    rounds = {"median": reached, "most": reached, "least": reached}
    facts = {"typical_hottest": 3, "hottest": 5, "busiest": 1.3, "files": 1.0, "draw_seconds": 2e-6}
    return {"sites": sites, "away": away, "reached": rounds, **facts}


def test_rounds_that_grow_faster_than_the_logarithm_are_missed(bench):
    """By hand: 8 sites in 6 rounds are 2 per log2; 64 in 12 are 2 as well, in 24 they are 4: twice."""
    targets = bench("speed_schedule").targets

    assert targets([row(8, 6), row(64, 12)])[1][1:] == ["1.00", "1.5", "met"]
    assert targets([row(8, 6), row(64, 24)])[1][1:] == ["2.00", "1.5", "**missed**"]


def test_weights_that_never_reach_all_are_missed(bench):
    """Infinitely many rounds, and a page and a picture all the same."""
    rows = [row(8, 6), row(64, math.inf)]

    assert bench("speed_schedule").targets(rows)[1][-1] == "**missed**"
    assert "inf" in bench("speed_schedule").tables({"rows": rows, "rounds": 95, "seeds": 5})


def test_a_quick_run_draws_its_picture_beside_its_results(bench, tmp_path):
    """And leaves the one of the documentation as it is."""
    module = bench("speed_schedule")
    before = module.PICTURE.read_bytes() if module.PICTURE.exists() else None
    settings = bench("speed_settings").Settings(tmp_path, quick=True, repetitions=1, device="cpu")

    found = module.measure(settings)

    assert (tmp_path / module.PICTURE.name).read_text().count("<path") > 10
    assert (module.PICTURE.read_bytes() if module.PICTURE.exists() else None) == before
    assert "met" in module.tables(json.loads(json.dumps(found)))


def test_a_default_training_has_95_rounds(bench):
    """By hand: after 50, 60, ..., 990 epochs; after 1,000 the training is over."""
    module = bench("speed_rounds")

    assert module.default_rounds() == list(range(50, 1000, 10))
    assert module.rounds_per_100_epochs() == 9.5
