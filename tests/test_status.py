"""`nnunet-gml status`: what the ledger says, in every state a ledger can be in."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from courier_kit import build_sites, collect, offer
from hypothesis import given
from hypothesis import strategies as st

from nnunet_gml.cli import main
from peer_sync.ages import age_words, ago, parse_age
from peer_sync.entries import MAX_LINE_BYTES, parse_entry, read_entries
from peer_sync.errors import ConfigError, RejectedError
from peer_sync.manifest import write_time
from peer_sync.status import read_status
from peer_sync.storage import write_state

NOW = datetime.now(UTC)


class Book:
    """A ledger written by hand: every line so many hours old."""

    def __init__(self, site) -> None:
        self.site = site
        site.folder.mkdir(exist_ok=True)
        self.path = site.folder / "ledger.jsonl"

    def write(self, hours: float, **facts) -> None:
        time = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="milliseconds")
        self.raw(json.dumps({"time": time, **facts}).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def collected(self, hours: float, peer: str, verdict: str = "accepted", **facts) -> None:
        usual = {"round": 1, "sequence": 1, "bytes": 1000}
        self.write(hours, event="collect", peer=peer, verdict=verdict, **{**usual, **facts})


@pytest.fixture
def book(tmp_path) -> Book:
    """North's ledger, in a federation of three."""
    return Book(build_sites(tmp_path, ("north", "south", "east"))["north"])


def status_of(book, *options: str) -> int:
    return main(["status", str(book.site.path), *options])


def facts_of(book, capsys, *options: str) -> dict:
    status_of(book, "--json", *options)
    return json.loads(capsys.readouterr().out)


def test_a_real_exchange_is_found_again(north, south):
    """What mailboxes write is what status reads: sequence, bytes, trust, and the offer's own time."""
    offered = offer(south)
    delivery = collect(north, south, round=4)
    north.accept(delivery)
    north.meet(delivery, trust=0.75)

    peer, own = read_status(north.site).peers["south"], read_status(south.site).own

    assert (peer.last_verdict, peer.round, peer.sequence, peer.trust) == ("accepted", 4, 1, 0.75)
    assert (peer.accepted, peer.refused, peer.failed) == (1, 0, 0)
    assert peer.received_bytes == delivery.transferred_bytes
    assert peer.offered == offered.created_at
    assert (own.offers, own.sequence, own.offered_bytes) == (1, 1, delivery.transferred_bytes)


def test_a_refused_offer_means_that_the_peer_was_reached(north, south):
    """Refused by the trainer: heard of, and the rule is remembered as the last problem."""
    offer(south)
    north.refuse(collect(north, south), RejectedError("finite", "tensor 'a' holds nan"))

    peer = read_status(north.site).peers["south"]

    assert peer.last_verdict == "refused"
    assert peer.last_seen is not None
    assert peer.problem is not None and (peer.problem.rule, peer.problem.message) == (
        "finite",
        "tensor 'a' holds nan",
    )


def test_a_failed_attempt_is_not_a_sign_of_life(book):
    """Nobody answered: the time of the last delivery stays."""
    book.collected(50, "south")
    book.collected(1, "south", "failed", round=9, sequence=None, bytes=0, message="no answer")

    peer = read_status(book.site).peers["south"]

    assert peer.last_seen is not None and datetime.now(UTC) - peer.last_seen > timedelta(hours=49)
    assert (peer.round, peer.sequence, peer.failed) == (9, 1, 1)


def test_a_wrong_host_key_is_not_a_sign_of_life(book):
    """Somebody answered, but not the peer."""
    book.collected(1, "south", "refused", rule="host-key", sequence=None, bytes=0)

    assert read_status(book.site).peers["south"].last_seen is None


def test_an_offer_that_came_too_late_for_its_round_was_heard(book):
    """It was whole and checked; only the training did not ask for it any more."""
    book.collected(1, "south", "failed", message="the training did not ask for it in time")

    assert read_status(book.site).peers["south"].last_verdict == "not used"


def test_peers_that_were_never_heard_of_have_a_row(book, capsys):
    """All sites of the federation but ourselves, also without any ledger."""
    facts = facts_of(book, capsys)

    assert [peer["peer"] for peer in facts["peers"]] == ["east", "south"]
    assert all(peer["last_seen"] is None and not peer["stale"] for peer in facts["peers"])
    assert facts["own"]["last_offer"] is None


def test_lines_about_former_sites_are_counted_apart(book, capsys):
    """They have no row, and nothing is hidden."""
    book.collected(1, "gone")

    assert facts_of(book, capsys)["ledger"] == {"lines": 1, "broken": 0, "former": {"gone": 1}}


def test_our_own_line_counts_offers_and_relay(book):
    """Two offers of 10 bytes, one that failed, one copy to the relay."""
    for sequence in (1, 2):
        book.write(5, event="offer", round=1, sequence=sequence, bytes=10, verdict="offered")
    book.write(4, event="publish", sequence=2, bytes=10, verdict="published")
    book.write(3, event="offer", round=3, verdict="failed", message="disk full")

    own = read_status(book.site).own

    assert (own.offers, own.failed, own.sequence, own.offered_bytes) == (2, 1, 2, 20)
    assert own.last_publish is not None and own.last_publish > (own.last_offer or NOW)
    assert own.problem is not None and own.problem.message == "disk full"


@pytest.mark.parametrize(
    "line",
    [
        b'{"time": "2026-11-2',
        b"\x00" * 200 + b"\n",
        b"[]\n",
        b"7\n",
        b"[" * 60_000 + b"\n",
        b'{"event": "collect"}\n',
        b'{"time": "yesterday", "event": "collect", "peer": "south"}\n',
        b'{"time": "2026-11-22T00:00:00", "event": "collect", "peer": "south"}\n',
        b'{"time": "2026-11-22T00:00:00+00:00", "event": "collect", "peer": "south", "bytes": "many"}\n',
        b'{"time": "2026-11-22T00:00:00+00:00", "event": "collect", "peer": "south", "bytes": true}\n',
        b'{"time": "2026-11-22T00:00:00+00:00", "event": "meet", "peer": "south", "trust": NaN}\n',
        b'{"time": "2026-11-22T00:00:00+00:00", "event": "meet", "peer": "south", "trust": 1e999}\n',
        b'{"time": "2026-11-22T00:00:00+00:00", "event": "collect", "round": 1' + b"0" * 400 + b"}\n",
        b'{"time": "2026-11-22T00:00:00+00:00", "x": "' + b"a" * MAX_LINE_BYTES + b'"}\n',
    ],
    ids=lambda line: repr(line[:70]),
)
def test_a_broken_line_costs_only_itself(book, capsys, line):
    """Cut, overwritten, of another type, or without end: it is counted, and the lines around it count."""
    book.collected(2, "south")
    book.raw(line + (b"" if line.endswith(b"\n") else b"\n"))
    book.collected(1, "east")

    facts = facts_of(book, capsys)

    assert facts["ledger"]["broken"] == 1 and facts["ledger"]["lines"] == 3
    assert [peer["accepted"] for peer in facts["peers"]] == [1, 1]


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange_for_a_line(line):
    """An entry or None, nothing else."""
    entry = parse_entry(line)

    assert entry is None or entry.time.tzinfo is not None


def test_a_cut_last_line_is_told(book, capsys):
    """A training that was killed while writing; both forms say so."""
    book.collected(1, "south")
    book.raw(b'{"time": "2026-11-22T00:0')

    assert status_of(book) == 0
    assert "1 of 2 lines of the ledger are broken or cut" in " ".join(capsys.readouterr().out.split())


def test_an_endless_line_is_not_held_in_memory(tmp_path):
    """32 MB without a line feed are read in pieces: under 1 MB at a time."""
    import tracemalloc

    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"x" * 32_000_000)
    tracemalloc.start()

    entries = list(read_entries(path))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert entries == [None]
    assert peak < 1_000_000


def test_a_ledger_that_may_not_be_read_is_an_error_with_a_hint(book):
    """Here because it is a folder."""
    book.path.mkdir()

    with pytest.raises(ConfigError, match="cannot read") as caught:
        read_status(book.site)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("hours", "max_age", "code"), [(3, "12h", 0), (13, "12h", 1), (13, "2d", 0), (1.6, "90m", 1)]
)
def test_max_age_is_about_all_peers_together(book, capsys, hours, max_age, code):
    """One peer that was heard is enough; the others were never heard of."""
    book.collected(hours, "south")

    assert status_of(book, "--max-age", max_age) == code
    assert ("nothing was heard from any peer" in capsys.readouterr().err) == bool(code)


def test_max_age_fails_when_nobody_was_ever_heard(book, capsys):
    """A site that was set up and never reached anybody is not fine."""
    assert status_of(book, "--max-age", "2d") == 1
    assert "last: never" in capsys.readouterr().err


def test_a_silent_peer_is_marked_though_another_was_heard(book, capsys, monkeypatch):
    """Rows older than --max-age carry the word, in both forms."""
    monkeypatch.setenv("COLUMNS", "120")
    book.collected(1, "south")
    book.collected(30, "east")

    marks = {peer["peer"]: peer["silent"] for peer in facts_of(book, capsys, "--max-age", "12h")["peers"]}
    status_of(book, "--max-age", "12h")

    assert marks == {"east": True, "south": False}
    assert "east, silent" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["12", "0h", "h", "1w", "-3h", "1.5h", "12H ", "99999999d"])
def test_an_age_that_is_none_is_a_usage_error(book, capsys, text):
    """Exit code 2, and the message shows how to write one."""
    with pytest.raises(SystemExit) as caught:
        status_of(book, f"--max-age={text}")

    assert caught.value.code == 2
    assert "90m, 12h or 2d" in capsys.readouterr().err


def test_stale_goes_by_the_offer_and_not_by_our_fetching_it(book, capsys):
    """Accepted an hour ago, made ten days ago: stale, by name (limit: seven days)."""
    book.collected(1, "south")
    state = book.site.folder / "state"
    state.mkdir()
    write_state(state / "peer-south.json", {"accepted": 1, "created": write_time(NOW - timedelta(days=10))})

    stale = {peer["peer"]: peer["stale"] for peer in facts_of(book, capsys)["peers"]}
    status_of(book)

    assert stale == {"east": False, "south": True}
    assert "stale: the newest offer of south is 10 d old, limit 7 d" in capsys.readouterr().out


def test_stale_without_a_state_file_goes_by_the_ledger(book, capsys):
    """Accepted eight days ago, and nothing since."""
    book.collected(8 * 24, "south")

    assert [peer["stale"] for peer in facts_of(book, capsys)["peers"]] == [False, True]


@pytest.mark.parametrize("columns", [30, 60, 80, 120])
def test_every_width_shows_every_fact_within_the_width(book, capsys, monkeypatch, columns):
    """A table where it fits, paragraphs where it does not; no line is longer than the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    book.collected(3, "south", round=13, sequence=44, bytes=62_400_000)
    book.write(3, event="meet", peer="south", round=13, sequence=44, trust=0.834)
    book.collected(2, "east", "refused", rule="sha256", message="SHA-256 of the weights: expected a, found b")

    status_of(book)

    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= columns
    words = " ".join(said.split())
    for fact in (
        "3 h ago,",
        "accepted",
        "2 h ago,",
        "refused",
        "13",
        "44",
        "62.4 MB",
        "0.83",
        "sha256",
        "found b",
    ):
        assert fact in words


def test_nothing_in_a_ledger_commands_the_terminal(book, capsys):
    """Escape codes, markup and lone surrogates in a message are shown harmlessly."""
    book.collected(1, "south", "refused", rule="x", message="\x1b[2J[bold]\ud800\r\nround 9: all is well")

    assert status_of(book) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "[bold]?" in said
    assert not any(line.startswith("round 9") for line in said.splitlines())


def test_an_age_is_told_in_one_unit():
    """By hand: 119 minutes are not yet two hours; a day and 23 hours are 47 hours."""
    ages = [timedelta(seconds=s) for s in (0, 119, 120, 7199, 7200, 47 * 3600, 48 * 3600)]

    assert [age_words(age) for age in ages] == ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]
    assert ago(timedelta(hours=-3)) == "3 h in the future"
    assert parse_age("90m") == timedelta(minutes=90)
