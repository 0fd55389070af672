"""One exchange with several peers: each is asked on its own, and in step a peer's round is waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from courier_kit import (
    FACTS,
    PLANS,
    SCHEMA,
    SIZES,
    Hanging,
    Noted,
    build_sites,
    offer,
    republish,
    wait_for,
    write_payload,
)

import peer_sync
from peer_sync import courier as couriers
from peer_sync import persistence
from peer_sync.courier import Courier
from peer_sync.errors import NotFoundError, RejectedError, TransportError
from peer_sync.mailbox import Mailbox
from peer_sync.orders import WITHOUT_PEER, WITHOUT_THIS_PEER
from peer_sync.routes import way_to
from peer_sync.site import Site
from peer_sync.transport.folder import FolderTransport
from peer_sync.worker import Worker

NAMES = ("north", "east", "south", "west")
PEERS = NAMES[1:]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Shorter pauses than in earnest."""
    monkeypatch.setattr(persistence, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(persistence, "LONGEST_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(persistence, "LONGEST_WAIT_IN_STEP_SECONDS", 0.1)


@pytest.fixture
def boxes(tmp_path) -> Iterator[dict[str, Mailbox]]:
    """Four mailboxes; north's courier is tried, the others offer."""
    opened = {name: Mailbox(site) for name, site in build_sites(tmp_path, NAMES).items()}
    yield opened
    for mailbox in opened.values():
        mailbox.close()


@pytest.fixture
def start(boxes) -> Iterator[Callable[..., Courier]]:
    """Starts couriers of north; each is stopped at the end, and no thread of theirs is left then."""
    begun: list[Courier] = []
    before = set(threading.enumerate())

    def begin(way: Callable[[Site, str], object] = way_to) -> Courier:
        begun.append(Courier(boxes["north"], PLANS, SCHEMA, SIZES, way))
        begun[-1].start()
        return begun[-1]

    yield begin
    for courier in begun:
        courier.stop()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread not in before])


def exchange(courier: Courier, peers=PEERS, round: int = 1, in_step: bool = True) -> None:
    """One exchange of north."""
    payload = write_payload(courier.mailbox.site.folder)
    courier.exchange(payload, replace(FACTS, round=round), peers, round if in_step else 0)


def handed_out(courier: Courier, count: int) -> dict[str, int]:
    """The next deliveries, accepted: peer and the peer's round."""
    found: dict[str, int] = {}
    for _ in range(count):
        delivery = wait_for(courier.delivery)
        courier.mailbox.accept(delivery)
        found[delivery.peer] = delivery.manifest.round
    return found


def lines(mailbox: Mailbox, **facts: object) -> list[dict]:
    path = mailbox.ledger.path
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if all(line[name] == fact for name, fact in facts.items())]


def test_one_offer_goes_out_and_every_peer_comes_in(boxes, start):
    """Three peers, one offer, each delivery once, nothing said."""
    for name in PEERS:
        offer(boxes[name])
    courier = start()

    exchange(courier)

    assert handed_out(courier, 3) == {"east": 1, "south": 1, "west": 1}
    assert courier.delivery() is None
    assert courier.messages() == []
    assert len(wait_for(lambda: lines(boxes["north"], event="offer"))) == 1
    assert {line["peer"] for line in lines(boxes["north"], verdict="accepted")} == set(PEERS)


def test_a_slow_and_a_silent_peer_hold_up_nobody(boxes, start):
    """West is there at once, east comes later, south never answers; the end cuts it off."""
    offer(boxes["west"])
    silent = Hanging()
    courier = start(lambda site, peer: silent if peer == "south" else way_to(site, peer))

    exchange(courier)

    assert handed_out(courier, 1) == {"west": 1}
    offer(boxes["east"])
    assert handed_out(courier, 1) == {"east": 1}
    assert not silent.closed.is_set()
    courier.stop()
    assert silent.closed.is_set()


def test_a_dead_peer_is_told_once_in_a_round_and_by_name(boxes, start):
    """One sentence that the others are not concerned by, and one line in the ledger."""
    for name in ("east", "west"):
        offer(boxes[name])
    dead = Dead(Path())
    courier = start(lambda site, peer: dead if peer == "south" else way_to(site, peer))
    exchange(courier)
    handed_out(courier, 2)
    wait_for(lambda: dead.asked > 2)

    exchange(courier, PEERS[:1], round=2)

    (failed,) = wait_for(lambda: lines(boxes["north"], verdict="failed"))
    assert (failed["peer"], failed["round"]) == ("south", 1)
    (message,) = courier.messages()
    assert message.startswith("peer 'south', round 1, rule connection: cannot connect")
    assert message.endswith("; it is tried again")


def test_an_earlier_round_is_not_yet(boxes, start):
    """Asked again in silence: nothing is fetched, accepted or judged; the peer's round is taken."""
    offer(boxes["south"], round=1)
    way = Noted(boxes["south"].outbox)
    courier = start(lambda site, peer: way)

    exchange(courier, ["south"], round=2)
    wait_for(lambda: way.asked > 2)

    assert courier.delivery() is None
    assert courier.messages() == []
    assert boxes["north"].last_sequence("south") == 0
    wait_for(lambda: not list(boxes["north"].inbox.iterdir()))  # what an attempt has fetched goes with it
    offer(boxes["south"], round=2)
    assert handed_out(courier, 1) == {"south": 2}


def test_an_absurd_round_stops_nobody(boxes, start):
    """East claims to be a billion rounds ahead, with a good signature; the others come as ever."""
    republish(boxes["east"], replace(offer(boxes["east"]), round=1_000_000_000))
    for name in ("south", "west"):
        offer(boxes[name], round=2)
    courier = start()

    exchange(courier, round=2)

    assert handed_out(courier, 3) == {"east": 1_000_000_000, "south": 2, "west": 2}
    for name in PEERS:
        offer(boxes[name], round=3)
    exchange(courier, round=3)
    assert handed_out(courier, 3) == dict.fromkeys(PEERS, 3)


def test_a_hostile_peer_costs_only_itself(boxes, start):
    """East's offer breaks a rule: it is refused by name, the others are taken."""
    republish(boxes["east"], replace(offer(boxes["east"]), plans_digest="e" * 64))
    for name in ("south", "west"):
        offer(boxes[name])
    courier = start()

    exchange(courier)

    assert handed_out(courier, 2) == {"south": 1, "west": 1}
    (message,) = wait_for(courier.messages)
    assert message.startswith("peer 'east', round 1, rule plans: ")
    assert message.endswith(WITHOUT_THIS_PEER)


def test_the_next_exchange_ends_the_last_for_all_its_peers(boxes, start):
    """Also for those that it does not ask itself: one line each, and they are left alone."""
    asked: list[str] = []

    class Named(FolderTransport):
        def names(self) -> list[str]:
            asked.append(self.path.parent.name)
            return super().names()

    courier = start(lambda site, peer: Named(boxes[peer].outbox))
    exchange(courier, round=1)
    wait_for(lambda: set(asked) == set(PEERS))

    exchange(courier, ["west"], round=2)

    wait_for(lambda: len(lines(boxes["north"], verdict="failed", round=1)) == 3)
    asked.clear()
    wait_for(lambda: len(asked) > 3)
    assert set(asked) == {"west"}
    said = courier.messages()
    assert len(said) == 3
    assert all("round 1, rule nothing new: expected an offer, found none" in message for message in said)


def test_out_of_step_the_newest_is_handed_out_and_the_older_are_dropped(boxes, start):
    """Nobody fetched what came in round 1; with south's of round 2, that of east and west is out of date."""
    for name in PEERS:
        offer(boxes[name])
    courier = start()
    exchange(courier, in_step=False)
    wait_for(lambda: len(courier._deliveries) == 3)
    newer = offer(boxes["south"])
    exchange(courier, ["south"], round=2, in_step=False)
    wait_for(lambda: [found for found in list(courier._deliveries.values()) if found.round == 2])

    delivery = courier.delivery()

    assert (delivery.peer, delivery.manifest) == ("south", newer)
    assert courier.delivery() is None
    wait_for(lambda: len(lines(boxes["north"], verdict="failed")) == 3)
    assert {line["peer"] for line in lines(boxes["north"], verdict="failed", round=1)} == set(PEERS)


def test_out_of_step_all_of_one_round_are_handed_out(boxes, start):
    """Three peers were asked in the same round: none of them is older than another."""
    for name in PEERS:
        offer(boxes[name])
    courier = start()

    exchange(courier, in_step=False)
    wait_for(lambda: len(courier._deliveries) == 3)

    assert handed_out(courier, 3) == dict.fromkeys(PEERS, 1)


def test_what_comes_too_late_for_its_round_is_not_handed_out_in_step(boxes, start):
    """It is dropped with a line, and does not stand in the way of the peer's next offer."""
    offer(boxes["south"], round=1)
    courier = start()
    exchange(courier, ["south"], round=1)
    wait_for(lambda: courier._deliveries)

    exchange(courier, ["south"], round=2)

    assert courier.delivery() is None
    assert [line["sequence"] for line in lines(boxes["north"], verdict="failed")] == [1]
    offer(boxes["south"], round=2)
    assert handed_out(courier, 1) == {"south": 2}


def test_a_delivery_that_came_after_the_wait_can_be_dropped(boxes, start):
    """Handed out, but its round is over: a line says so, nothing of it stays or is remembered."""
    offer(boxes["south"], round=1)
    courier, north = start(), boxes["north"]
    exchange(courier, ["south"], round=1)
    late = wait_for(courier.delivery)

    north.drop(late, "it came after the wait of its round")

    (line,) = lines(north, verdict="failed")
    assert (line["peer"], line["sequence"], line["message"]) == (
        "south",
        1,
        "it came after the wait of its round",
    )
    assert line["bytes"] > 700
    assert (late.payload.exists(), north.last_sequence("south")) == (False, 0)
    offer(boxes["south"], round=2)
    exchange(courier, ["south"], round=2)
    assert handed_out(courier, 1) == {"south": 2}


class Dead(FolderTransport):
    """Cannot be reached."""

    asked = 0

    def names(self) -> list[str]:
        self.asked += 1
        raise TransportError("cannot connect: expected an answer, found none")


def test_open_are_the_peers_from_whom_something_may_still_come(boxes, start):
    """East is refused; west has delivered and is open until that is fetched; south may still be reached."""
    republish(boxes["east"], replace(offer(boxes["east"]), plans_digest="e" * 64))
    offer(boxes["west"])
    courier = start(lambda site, peer: Dead(Path()) if peer == "south" else way_to(site, peer))
    assert courier.open_peers() == set()

    exchange(courier)
    assert "south" in courier.open_peers()
    wait_for(lambda: courier.open_peers() == {"south", "west"})
    wait_for(lambda: not courier._collectors["west"].worker.is_wanted())
    assert courier.open_peers() == {"south", "west"}

    assert handed_out(courier, 1) == {"west": 1}
    assert courier.open_peers() == {"south"}
    courier.stop()
    assert courier.open_peers() == set()


def test_a_connection_that_ends_slowly_keeps_no_peer_open(boxes, start):
    """The weights were handed out: nothing more comes, though its collector still hangs up."""
    hung_up = threading.Event()

    class Lingering(FolderTransport):
        def close(self) -> None:
            hung_up.wait(120)

    offer(boxes["south"])
    courier = start(lambda site, peer: Lingering(boxes[peer].outbox))
    exchange(courier, ["south"])

    assert handed_out(courier, 1) == {"south": 1}

    assert courier._collectors["south"].worker.is_wanted()
    assert courier.open_peers() == set()
    hung_up.set()


def test_only_the_last_exchanges_peers_are_open(boxes, start):
    """What still comes from an earlier one is nobody's wait."""
    silent = Hanging()
    courier = start(lambda site, peer: silent if peer == "south" else way_to(site, peer))
    exchange(courier, ["south"])
    assert courier.open_peers() == {"south"}

    exchange(courier, ["west"], round=2)

    assert courier.open_peers() == {"west"}


def test_out_of_step_a_late_answer_leaves_the_last_exchange_open(boxes, start):
    """South answers round 1 after round 2 was begun: its answer to round 2 may still come."""
    first, second = threading.Event(), threading.Event()
    answers = iter([first, second])

    class Slow(FolderTransport):
        def names(self) -> list[str]:
            next(answers, second).wait(120)
            return super().names()

    offer(boxes["south"])
    courier = start(lambda site, peer: Slow(boxes[peer].outbox))
    exchange(courier, ["south"], in_step=False)
    wait_for(lambda: courier._collectors["south"].worker._busy)
    exchange(courier, ["south"], round=2, in_step=False)
    first.set()

    late = wait_for(courier.delivery)
    courier.mailbox.accept(late)

    assert late.round == 1
    assert courier.open_peers() == {"south"}
    second.set()


@pytest.mark.parametrize("then", [["south"], ["west"], None])
def test_a_request_that_never_began_is_a_line_as_well(boxes, start, then):
    """Round 2 waited behind round 1's transfer: replaced, dismissed, or ended, it is one failed line."""
    silent = Hanging()
    courier = start(lambda site, peer: silent if peer == "south" else way_to(site, peer))
    exchange(courier, ["south"])
    wait_for(lambda: courier._collectors["south"].worker._busy)
    exchange(courier, ["south"], round=2)

    if then is None:
        courier.stop()
    else:
        exchange(courier, then, round=3)

    (line,) = lines(boxes["north"], verdict="failed", round=2)
    assert (line["event"], line["peer"], line["bytes"]) == ("collect", "south", 0)
    assert "not asked" in line["message"]
    said = [
        message for message in courier.messages() if message.startswith("peer 'south', round 2: not asked")
    ]
    assert len(said) == (then is not None)


def test_a_stuck_transfer_of_the_last_round_is_cut_in_the_end(boxes, start, monkeypatch):
    """Though its peer is not asked any more; the peers of the new round come meanwhile."""
    monkeypatch.setattr(couriers, "STALE_SECONDS", 0.3)
    silent = Hanging()
    offer(boxes["west"])
    courier = start(lambda site, peer: silent if peer == "south" else way_to(site, peer))
    exchange(courier, ["south"], in_step=False)
    wait_for(silent.asked.is_set)
    time.sleep(0.5)
    assert not silent.closed.is_set()

    exchange(courier, ["west"], round=2, in_step=False)

    assert handed_out(courier, 1) == {"west": 1}
    wait_for(silent.closed.is_set)


def test_a_round_that_is_ordered_again_finds_what_it_had_taken(boxes, start):
    """In step, after kill -9: the weights that were accepted before it are taken once more, silently."""
    for name in PEERS:
        offer(boxes[name], round=3)
    courier = start()
    exchange(courier, round=3)
    handed_out(courier, 3)
    courier.stop()

    again = start()
    exchange(again, round=3)

    assert handed_out(again, 3) == dict.fromkeys(PEERS, 3)
    assert again.messages() == []
    exchange(again, round=4)
    time.sleep(0.3)
    assert again.delivery() is None


def test_a_round_of_gossip_that_is_ordered_again_waits_calmly(boxes, start):
    """Out of step, what was accepted is nothing new: one sentence when the round is over, none before."""
    offer(boxes["south"], round=3)
    courier = start()
    exchange(courier, ["south"], round=3, in_step=False)
    handed_out(courier, 1)
    courier.stop()
    way = Noted(boxes["south"].outbox)
    again = start(lambda site, peer: way if peer == "south" else way_to(site, peer))

    exchange(again, ["south"], round=3, in_step=False)
    wait_for(lambda: way.asked > 2)

    assert again.messages() == []
    assert again.delivery() is None
    exchange(again, ["west"], round=4, in_step=False)
    (message,) = wait_for(again.messages)
    assert message == (
        "peer 'south', round 3, rule nothing new: expected an offer after 1, found none "
        f"(the peer is not further); {WITHOUT_PEER}"
    )


def test_a_peer_that_was_overtaken_does_not_fall_behind_for_good(boxes, start):
    """South is a round ahead: its offer serves our round 2, and our round 3 as well."""
    offer(boxes["south"], round=3)
    courier = start()
    exchange(courier, ["south"], round=2)
    assert handed_out(courier, 1) == {"south": 3}

    exchange(courier, ["south"], round=3)

    assert handed_out(courier, 1) == {"south": 3}


def in_step(north: Mailbox, south: Mailbox, least_round: int):
    """Collect in step."""
    way = FolderTransport(south.outbox)
    return north.collect("south", way, PLANS, SCHEMA, SIZES, least_round, least_round=least_round)


@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_of_a_peer_that_is_ahead_the_round_is_taken_that_we_are_in(north, south, wanted):
    """South shows its last three offers, of rounds 2, 3 and 4: what crosses is the wanted one, whole."""
    made = {round_: offer(south, bytes([round_]) * 700, round=round_) for round_ in (2, 3, 4)}

    delivery = in_step(north, south, wanted)

    assert delivery.manifest == made[wanted]
    assert delivery.payload.read_bytes() == bytes([wanted]) * 700
    assert (delivery.payload.parent / "manifest.json").read_bytes() == made[wanted].to_bytes()


def test_of_a_peer_that_is_far_ahead_the_earliest_is_taken(north, south):
    """Round 2 is gone from its outbox, and round 3 as well: the last three are those of 4, 5 and 7."""
    for round_ in (2, 3, 4, 5, 7):
        offer(south, round=round_)

    assert in_step(north, south, 2).manifest.round == 4


def test_a_bad_older_offer_does_not_spoil_the_newest(north, south):
    """South's round 2 breaks a rule, its round 3 is good: the latter is taken, and nothing is refused."""
    republish(south, replace(offer(south, round=2), plans_digest="e" * 64))
    newest = offer(south, bytes(700), round=3)

    delivery = in_step(north, south, 2)

    assert delivery.manifest == newest
    assert (delivery.payload.parent / "manifest.json").read_bytes() == newest.to_bytes()
    assert not list(north.quarantine.folder.iterdir())


def test_the_round_that_was_taken_is_taken_again_though_the_peer_is_ahead_now(north, south):
    """A repeated round has the same weights as before; the next one goes on from there."""
    first = offer(south, round=2)
    north.accept(in_step(north, south, 2))
    offer(south, round=3)

    again = in_step(north, south, 2)

    assert again.manifest == first
    north.accept(again)
    assert in_step(north, south, 3).manifest.round == 3


def test_refused_weights_are_not_taken_again_in_step(north, south):
    """The trainer's refusal holds; the peer has to offer anew."""
    offer(south, round=2)
    north.refuse(in_step(north, south, 2), RejectedError("finite", "expected finite weights, found NaN"))

    with pytest.raises(NotFoundError, match="expected an offer after 1, found none"):
        in_step(north, south, 2)


def test_the_last_offer_is_taken_again_only_to_the_byte(north, south):
    """Other facts under the number that was accepted are refused, in step too."""
    manifest = offer(south, round=2)
    north.accept(in_step(north, south, 2))
    republish(south, replace(manifest, epoch=51))

    with pytest.raises(RejectedError, match="with other content than before"):
        in_step(north, south, 2)


def test_an_older_offer_put_back_is_refused_in_step(north, south):
    """Rollback: taking the last one again does not open the way to those before it."""
    old = offer(south, round=2)
    files = {path: path.read_bytes() for path in south.outbox.iterdir()}
    offer(south, round=2)
    north.accept(in_step(north, south, 2))
    for path in south.outbox.iterdir():
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)

    with pytest.raises(RejectedError, match=f"expected more than 2, found {old.sequence}"):
        in_step(north, south, 2)


def test_an_earlier_round_names_both_rounds(north, south):
    """The sentence at the end of a round that was waited for in vain."""
    offer(south, round=4)

    with pytest.raises(NotFoundError, match="rule nothing new: expected an offer of round 5 or later, found"):
        in_step(north, south, 5)


def test_a_dismissed_worker_takes_the_next_order():
    """The pause of the order at hand ends; what waits is forgotten; the thread goes on."""
    done: list[str] = []
    worker: Worker[str] = Worker("tried", lambda order: done.append(f"{order} {worker.pause(10)}"))
    worker.start()
    worker.order("first")
    wait_for(lambda: worker._busy)
    worker.dismiss()
    wait_for(lambda: done == ["first True"])
    assert not worker.is_behind()

    worker.order("second")
    wait_for(lambda: worker._busy)
    assert not worker.is_behind()
    worker.stop()
    worker.join(60)

    assert done == ["first True", "second True"]


SITE = """
import os, signal, sys, time
from dataclasses import replace
from courier_kit import FACTS, PLANS, SCHEMA, SIZES, write_payload
from peer_sync import persistence
from peer_sync.courier import Courier
from peer_sync.mailbox import Mailbox
from peer_sync.site import load_site

persistence.FIRST_WAIT_SECONDS, persistence.LONGEST_WAIT_IN_STEP_SECONDS = 0.05, 0.2
path, wait_seconds, pause_seconds, rounds, killed_in = sys.argv[1], *map(float, sys.argv[2:])
site = load_site(path)
peers = site.federation.peers_of(site.name)
mailbox = Mailbox(site)
courier = Courier(mailbox, PLANS, SCHEMA, SIZES)
courier.start()
print("ready", flush=True)
sys.stdin.readline()
checkpoint = site.folder / "round"
done = int(checkpoint.read_text()) if checkpoint.exists() else 0
for round_ in range(done + 1, int(rounds) + 1):
    time.sleep(pause_seconds)
    courier.exchange(write_payload(site.folder), replace(FACTS, round=round_), peers, round_)
    met, deadline = {}, time.monotonic() + 100
    while len(met) < len(peers) and time.monotonic() < deadline:
        if delivery := courier.delivery():
            mailbox.accept(delivery)
            met[delivery.peer] = delivery.manifest.round
            deadline = time.monotonic() + wait_seconds
        time.sleep(0.01)
    if round_ == killed_in:
        os.kill(os.getpid(), signal.SIGKILL)
    print(round_, *(f"{name}:{met[name]}" for name in sorted(met)), flush=True)
    checkpoint.write_text(str(round_))
print("end", flush=True)
sys.stdin.read()
courier.stop()
for message in courier.messages():
    print(message, file=sys.stderr)
mailbox.close()
"""


def start_site(
    site: Site, wait_seconds: float = 100, pause_seconds: float = 0, rounds: int = 4, killed_in: int = 0
) -> subprocess.Popen:
    """A training in step in a process of its own; it tells a line for each round.

    After each peer that came, the next one is waited for ``wait_seconds``.
    """
    paths = [str(Path(peer_sync.__file__).parent.parent), str(Path(__file__).parent)]
    words = [str(word) for word in (site.path, wait_seconds, pause_seconds, rounds, killed_in)]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SITE, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        text=True,
    )


def begin(*processes: subprocess.Popen) -> None:
    """Let them train as soon as all are there, with their servers."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("begin\n")
        process.stdin.flush()


def told(process: subprocess.Popen) -> list[str]:
    """Its rounds, until it has come to the end or died."""
    found = []
    for line in process.stdout:
        if line == "end\n":
            break
        found.append(line.strip())
    return found


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit codes and standard error."""
    for process in processes:
        process.stdin.close()
    codes = [process.wait(100) for process in processes]
    errors = [process.stderr.read() for process in processes]
    for process in processes:
        process.stdout.close()
        process.stderr.close()
    return list(zip(codes, errors, strict=True))


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen]]:
    """Processes of a test; what still runs at its end is killed."""
    begun: list[subprocess.Popen] = []
    yield begun
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def test_three_processes_stay_in_step_over_their_own_servers(tmp_path, running):
    """One is slow: the others wait, and each takes the same round from each, four times."""
    sites = build_sites(tmp_path, NAMES[:3], served=True)
    for name in sites:
        running.append(start_site(sites[name], pause_seconds=0.7 if name == "east" else 0))

    begin(*running)
    heard = [told(process) for process in running]
    ends = ended(running)

    for name, rounds in zip(sites, heard, strict=True):
        others = [other for other in sorted(sites) if other != name]
        assert rounds == [f"{n} " + " ".join(f"{o}:{n}" for o in others) for n in range(1, 5)], ends
    assert ends == [(0, "")] * 3


def test_a_dead_site_costs_the_others_only_the_wait(tmp_path, running):
    """South never starts: north and east have each other's weights in every round."""
    sites = build_sites(tmp_path, NAMES[:3], served=True)
    for name in ("north", "east"):
        running.append(start_site(sites[name], wait_seconds=5, rounds=2))

    begin(*running)
    heard = [told(process) for process in running]
    ends = ended(running)

    for other, rounds in zip(("east", "north"), heard, strict=True):
        assert rounds == [f"{n} {other}:{n}" for n in (1, 2)], ends
    for code, said in ends:
        assert code == 0
        assert len([line for line in said.splitlines() if "'south'" in line]) == 2


def test_a_site_killed_in_a_round_repeats_it_at_once(tmp_path, running):
    """kill -9 after all weights of round 2 were accepted, before that was saved: nobody loses a round."""
    sites = build_sites(tmp_path, NAMES[:3], served=True)
    for name in ("north", "east"):
        running.append(start_site(sites[name]))
    killed = start_site(sites["south"], killed_in=2)
    running.append(killed)
    begin(*running)
    assert told(killed) == ["1 east:1 north:1"]
    assert killed.wait(60) == -signal.SIGKILL
    killed.communicate()

    running[-1] = start_site(sites["south"])
    begin(running[-1])
    repeated = told(running[-1])
    heard = [told(process) for process in running[:2]]
    ends = ended(running)

    assert repeated == [f"{n} east:{n} north:{n}" for n in (2, 3, 4)], ends
    assert heard[0] == [f"{n} east:{n} south:{n}" for n in (1, 2, 3, 4)], ends
    assert heard[1] == [f"{n} north:{n} south:{n}" for n in (1, 2, 3, 4)], ends
    assert [code for code, _ in ends] == [0, 0, 0], ends
