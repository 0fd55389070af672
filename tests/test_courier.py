"""The courier: in the background, patient, and quiet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from courier_kit import (
    FACTS,
    PLANS,
    SCHEMA,
    SIZES,
    Cut,
    Hanging,
    Noted,
    facts_bytes,
    offer,
    republish,
    wait_for,
    write_payload,
)

import peer_sync
from peer_sync import courier as couriers
from peer_sync import persistence
from peer_sync.courier import Courier
from peer_sync.errors import ConfigError, TransportError
from peer_sync.mailbox import Mailbox
from peer_sync.orders import MAX_TOLD, WITHOUT_PEER, Failures
from peer_sync.routes import way_to
from peer_sync.server.process import ServerProcess
from peer_sync.site import load_site
from peer_sync.transport.folder import FolderTransport
from peer_sync.transport.sftp import SftpTransport


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Shorter pauses than in earnest."""
    monkeypatch.setattr(persistence, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(persistence, "LONGEST_WAIT_SECONDS", 0.2)


@pytest.fixture
def courier(north):
    """North's courier, started."""
    made = Courier(north, PLANS, SCHEMA, SIZES)
    made.start()
    yield made
    made.stop()


def exchange(courier: Courier, round: int = 1) -> None:
    """North's exchange with south."""
    facts = replace(FACTS, round=round)
    courier.exchange(write_payload(courier.mailbox.site.folder), facts, ["south"])


def collecting(courier: Courier):
    """The thread that asks south."""
    return courier._collectors["south"].worker


def lines(mailbox: Mailbox, event: str = "collect") -> list[dict]:
    path = mailbox.ledger.path
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if line["event"] == event]


def test_an_sftp_address_gives_sftp(served_sites):
    """With the host key of the federation file; nothing is opened yet."""
    assert isinstance(way_to(served_sites["north"], "south"), SftpTransport)


def test_a_folder_address_starts_from_the_federation_file(sites, tmp_path):
    """Wherever the training was started."""
    way = way_to(sites["north"], "south")

    assert isinstance(way, FolderTransport)
    assert way.path == tmp_path / "south/outbox"


def test_an_exchange_offers_and_collects(courier, south):
    """Ours goes out, theirs comes in, nothing is said."""
    made = offer(south)

    exchange(courier)

    delivery = wait_for(courier.delivery)
    assert delivery.manifest == made
    assert courier.delivery() is None
    assert courier.messages() == []
    assert len(wait_for(lambda: lines(courier.mailbox, "offer"))) == 1


def test_a_peer_that_is_not_ready_is_waited_for(north, south):
    """Nothing new is asked again, in silence."""
    way = Noted(south.outbox)
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: way)
    courier.start()
    exchange(courier)
    wait_for(lambda: way.asked > 1)
    assert courier.delivery() is None

    offer(south)

    assert wait_for(courier.delivery).retries > 0
    assert courier.messages() == []
    courier.stop()


def test_a_failure_is_told_once_and_tried_again(north, south):
    """Two equal failures, one sentence; then it works."""
    calls = []

    class Broken(FolderTransport):
        def names(self) -> list[str]:
            calls.append(1)
            if len(calls) < 3:
                raise TransportError("cannot list: expected an answer, found none")
            return super().names()

    offer(south)
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: Broken(south.outbox))
    courier.start()
    exchange(courier, round=2)

    assert wait_for(courier.delivery).retries == 2
    (message,) = courier.messages()
    assert message.startswith("peer 'south', round 2, rule connection: cannot list")
    assert message.endswith(WITHOUT_PEER)
    courier.stop()


def test_a_refusal_is_told_and_not_tried_again(courier, south):
    """Peer, round, rule, expected, found, and what happens now."""
    republish(south, replace(offer(south), plans_digest="e" * 64))

    exchange(courier, round=5)

    (message,) = wait_for(courier.messages)
    time.sleep(0.4)
    expected = f"peer 'south', round 5, rule plans: digest of the plans: expected {PLANS}, found {'e' * 64}"
    assert message.startswith(expected)
    assert message.endswith(WITHOUT_PEER)
    assert courier.messages() == []
    assert [line["verdict"] for line in lines(courier.mailbox)] == ["refused"]


def test_the_next_exchange_replaces_an_unfinished_one(north, south):
    """The old round ends with one line and one sentence, the new one goes on."""
    way = Noted(south.outbox)
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: way)
    courier.start()
    exchange(courier, round=1)
    wait_for(lambda: way.asked)

    exchange(courier, round=2)
    (line,) = wait_for(lambda: lines(north))
    offer(south)

    assert wait_for(courier.delivery).round == 2
    (message,) = courier.messages()
    assert message.startswith("peer 'south', round 1, rule nothing new: expected an offer, found none")
    assert message.endswith(WITHOUT_PEER)
    assert (line["round"], line["verdict"]) == (1, "failed")
    courier.stop()


def test_training_never_waits(north):
    """With a peer that hangs, every call returns at once."""
    release = threading.Event()

    class Hanging(FolderTransport):
        def names(self) -> list[str]:
            release.wait(120)
            return []

        def close(self) -> None:
            release.set()

    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: Hanging(Path()))
    courier.start()
    started = time.monotonic()

    exchange(courier)
    for _ in range(100):
        courier.delivery()
        courier.messages()
    exchange(courier, round=2)

    assert time.monotonic() - started < 30
    courier.stop()
    assert time.monotonic() - started < 60


def test_stop_cuts_what_starts_late(north):
    """Even an exchange that was ordered just before ends in time."""
    cut = threading.Event()

    class Hanging(FolderTransport):
        def names(self) -> list[str]:
            cut.wait(120)
            raise TransportError("cannot list: expected an answer, found the end")

        def close(self) -> None:
            cut.set()

    def slowly(site, peer):
        time.sleep(0.5)
        return Hanging(Path())

    courier = Courier(north, PLANS, SCHEMA, SIZES, slowly)
    courier.start()
    exchange(courier)
    time.sleep(0.2)
    started = time.monotonic()

    courier.stop()

    assert time.monotonic() - started < 60
    assert not collecting(courier).is_alive


def test_a_delivery_nobody_fetched_gives_way(courier, south):
    """The newest is handed out, the older one is dropped and noted."""
    offer(south)
    exchange(courier, round=1)
    wait_for(lambda: courier._deliveries)
    newer = offer(south)

    exchange(courier, round=2)

    wait_for(lambda: [delivery for delivery in list(courier._deliveries.values()) if delivery.round == 2])
    assert courier.delivery().manifest == newer
    (line,) = wait_for(lambda: lines(courier.mailbox))
    assert (line["round"], line["verdict"]) == (1, "failed")


def test_an_offer_is_not_handed_out_twice(courier, south):
    """Collected again for round 2, because round 1's delivery was not judged then; meanwhile it was."""
    offer(south)
    exchange(courier, round=1)
    first = wait_for(courier.delivery)
    exchange(courier, round=2)
    wait_for(lambda: courier._deliveries)
    courier.mailbox.accept(first)

    assert courier.delivery() is None

    assert [(line["verdict"], line["round"]) for line in lines(courier.mailbox)] == [
        ("accepted", 1),
        ("failed", 2),
    ]
    offer(south)
    exchange(courier, round=3)
    assert wait_for(courier.delivery).manifest.sequence == 2


def test_the_line_of_an_exchange_has_the_bytes_of_all_its_attempts(north, south):
    """Cut at 200 and at 500 bytes: three times manifest and signature, and the payload's 700 once."""
    offer(south)
    facts = facts_bytes(south)
    way = Cut(south.outbox, 200, 500)
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: way)
    courier.start()
    exchange(courier)

    north.accept(wait_for(courier.delivery))

    (line,) = lines(north)
    assert (line["verdict"], line["retries"], line["bytes"]) == ("accepted", 2, 3 * facts + 700)
    courier.stop()


def test_the_line_of_a_refusal_has_the_bytes_of_all_its_attempts(north, south):
    """Cut at 200 bytes, then whole and wrong: twice manifest and signature, 700 bytes, and 700 once more."""
    manifest = offer(south)
    (south.outbox / manifest.payload).write_bytes(b"weighty" * 100)
    facts = facts_bytes(south)
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: Cut(south.outbox, 200))
    courier.start()

    exchange(courier)

    (line,) = wait_for(lambda: lines(north))
    assert (line["rule"], line["bytes"]) == ("sha256", 2 * facts + 1400)
    courier.stop()


def test_the_line_of_an_exchange_that_was_given_up_has_its_bytes(monkeypatch, north, south):
    """200 bytes had come when the next round began, with manifest and signature."""
    offer(south)
    facts = facts_bytes(south)
    cut = Cut(south.outbox, 200)
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: cut)
    monkeypatch.setattr(persistence, "FIRST_WAIT_SECONDS", 20)
    courier.start()
    exchange(courier, round=1)
    wait_for(courier.messages)

    exchange(courier, round=2)

    (line,) = wait_for(lambda: lines(north))
    assert (line["round"], line["verdict"], line["retries"], line["bytes"]) == (1, "failed", 1, facts + 200)
    courier.stop()


def test_an_offer_that_fails_does_not_stop_the_collecting(courier, south):
    """A missing payload is told; the peer's weights come all the same."""
    offer(south)

    courier.exchange(courier.mailbox.site.folder / "missing", FACTS, ["south"])

    assert wait_for(courier.delivery)
    (message,) = wait_for(courier.messages)
    assert message.startswith("our offer of round 1 was not published: cannot read the weights")


def test_a_courier_that_was_not_started_says_so(north):
    """Training goes on, and the log tells why there is no peer."""
    courier = Courier(north, PLANS, SCHEMA, SIZES)

    exchange(courier)

    assert courier.messages() == [f"peer 'south', round 1: the courier is not running; {WITHOUT_PEER}"]
    courier.stop()


def test_a_busy_port_stops_the_start(served_sites):
    """Found, expected, and what to do, before any epoch is trained."""
    import socket

    mailbox = Mailbox(served_sites["north"])
    courier = Courier(mailbox, PLANS, SCHEMA, SIZES)

    with (
        socket.create_server(served_sites["north"].listen),
        pytest.raises(ConfigError, match="expected a free port"),
    ):
        courier.start()
    courier.stop()
    mailbox.close()


def test_a_bug_in_collecting_costs_one_exchange(monkeypatch, caplog, courier, south):
    """It is told, noted and logged with its traceback; the next exchange works."""
    offer(south)
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "collect", broken)
        exchange(courier, round=1)
        (message,) = wait_for(courier.messages)

    assert message.startswith("peer 'south', round 1, collect: unexpected error, RuntimeError: 'a bug")
    assert message.endswith(WITHOUT_PEER)
    assert message.isprintable()
    (line,) = wait_for(lambda: lines(courier.mailbox))
    assert (line["round"], line["verdict"], line["peer"]) == (1, "failed", "south")
    assert "Traceback" in caplog.text
    exchange(courier, round=2)
    assert wait_for(courier.delivery).round == 2


def test_a_bug_in_offering_costs_one_offer(monkeypatch, caplog, courier, south):
    """The weights do not stay behind, the peer's come, and the next offer is made."""
    offer(south)
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "offer", broken)
        exchange(courier, round=1)
        (message,) = wait_for(courier.messages)

    assert message.startswith("peer 'south', round 1, offer: unexpected error, RuntimeError: 'a bug")
    (line,) = wait_for(lambda: lines(courier.mailbox, "offer"))
    assert (line["verdict"], line["peer"]) == ("failed", None)
    assert "Traceback" in caplog.text
    assert not (courier.mailbox.site.folder / "payload.tmp").exists()
    assert wait_for(courier.delivery)
    exchange(courier, round=2)
    wait_for(lambda: [line for line in lines(courier.mailbox, "offer") if line["verdict"] == "offered"])


def test_a_bug_is_told_even_when_the_ledger_cannot_be_written(monkeypatch, caplog, courier, south):
    """A last line of defence has nothing behind it."""
    monkeypatch.setattr(Mailbox, "collect", broken)
    monkeypatch.setattr(courier.mailbox.ledger, "write", broken)

    exchange(courier, round=1)
    told: list[str] = []
    wait_for(lambda: told.extend(courier.messages()) or len(told) > 1)
    exchange(courier, round=2)

    wait_for(lambda: [message for message in courier.messages() if "round 2, collect" in message])


def broken(*_: object, **__: object) -> None:
    """Something nobody thought of."""
    raise RuntimeError("a bug\nin many lines")


def test_a_failed_attempt_hangs_up_before_the_pause(north, south):
    """A hostile server has nothing to send to while we wait."""
    closed = []

    class Broken(FolderTransport):
        def names(self) -> list[str]:
            raise TransportError("cannot list: expected an answer, found none")

        def close(self) -> None:
            closed.append(1)

    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: Broken(south.outbox))
    courier.start()
    exchange(courier)

    wait_for(lambda: len(closed) > 2)
    courier.stop()


def test_an_offer_does_not_wait_behind_a_slow_transfer(north, south):
    """The second round's weights are out while the first still collects."""
    slow = Hanging()
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: slow)
    courier.start()
    exchange(courier, round=1)
    wait_for(lambda: len(lines(north, "offer")) == 1)

    exchange(courier, round=2)

    wait_for(lambda: len(lines(north, "offer")) == 2)
    assert not slow.closed.is_set()
    courier.stop()


def test_an_old_transfer_is_cut_for_a_newer_order(monkeypatch, north, south):
    """After five minutes; here after a third of a second. Without a newer order it goes on."""
    monkeypatch.setattr(couriers, "STALE_SECONDS", 0.3)
    offer(south)
    slow = Hanging()
    ways = iter([slow, FolderTransport(south.outbox)])
    courier = Courier(north, PLANS, SCHEMA, SIZES, lambda site, peer: next(ways))
    courier.start()
    exchange(courier, round=1)
    wait_for(slow.asked.is_set)
    time.sleep(0.8)
    assert not slow.closed.is_set()

    exchange(courier, round=2)

    assert wait_for(courier.delivery).round == 2
    assert [line["round"] for line in lines(north)] == [1]
    assert "it is tried again" not in " ".join(courier.messages())
    courier.stop()


def test_a_server_that_died_is_started_again(served_sites):
    """Before the next offer, with a word in the training log."""
    mailbox = Mailbox(served_sites["north"])
    courier = Courier(mailbox, PLANS, SCHEMA, SIZES)
    courier.start()
    os.kill(courier._server.process.pid, signal.SIGKILL)
    wait_for(lambda: not courier._server.process.running)

    exchange(courier)

    wait_for(lambda: lines(mailbox, "offer"))
    assert courier._server.process.running
    assert any("had ended; it is started again" in message for message in courier.messages())
    courier.stop()
    assert not courier._server.process.running
    mailbox.close()


def test_a_server_that_cannot_come_back_is_said(monkeypatch, served_sites):
    """The offer is written all the same."""
    mailbox = Mailbox(served_sites["north"])
    courier = Courier(mailbox, PLANS, SCHEMA, SIZES)
    courier.start()
    courier._server.stop()
    monkeypatch.setattr(ServerProcess, "start_unless_served", refuse)

    exchange(courier)

    wait_for(lambda: lines(mailbox, "offer"))
    assert any("no peer can read our offers: port busy" in message for message in courier.messages())
    courier.stop()
    mailbox.close()


def refuse(site: object) -> None:
    """A server that does not start."""
    raise ConfigError("port busy")


def test_few_failures_of_a_round_are_told():
    """However many different ones a hostile server invents."""
    failures = Failures()

    told = [failures.is_news(TransportError(f"failure {number}")) for number in range(50)]

    assert sum(told) == MAX_TOLD
    assert failures.count == 50


SITE = """
import sys, time
from pathlib import Path
from courier_kit import FACTS, PLANS, SCHEMA, write_payload
from peer_sync.courier import Courier
from peer_sync.mailbox import Mailbox
from peer_sync.site import load_site

site, peer = load_site(sys.argv[1]), sys.argv[2]
mailbox = Mailbox(site)
courier = Courier(mailbox, PLANS, SCHEMA, {"float16": 5000})
courier.start()
courier.exchange(write_payload(site.folder, site.name.encode() * 1000), FACTS, [peer])
delivery = None
for _ in range(2000):
    delivery = delivery or courier.delivery()
    if delivery:
        break
    time.sleep(0.05)
print(delivery.payload.read_bytes()[:5].decode() if delivery else courier.messages(), flush=True)
mailbox.accept(delivery)
sys.stdin.read()
courier.stop()
mailbox.close()
"""


def start_site(site, peer: str) -> subprocess.Popen:
    """A courier in a process of its own."""
    paths = [str(Path(peer_sync.__file__).parent.parent), str(Path(__file__).parent)]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SITE, str(site.path), peer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def test_two_processes_exchange_over_their_own_servers(served_sites):
    """Each gets the other's weights over SFTP on loopback; both end cleanly."""
    running = [
        start_site(served_sites[name], peer) for name, peer in (("north", "south"), ("south", "north"))
    ]
    try:
        heard = [process.stdout.readline().decode().strip() for process in running]
        ended = [process.communicate(b"", timeout=100) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait(60)

    assert heard == ["south", "north"], ended
    assert [process.returncode for process in running] == [0, 0], ended
    assert [err for _, err in ended] == [b"", b""]


def test_a_killed_site_comes_back(served_sites):
    """kill -9 of one: the other lives on; the same site starts again at once and both exchange."""
    first = start_site(served_sites["south"], "north")
    wait_for(lambda: (served_sites["south"].folder / "outbox/0000000001.json").exists())
    first.kill()
    first.communicate(timeout=100)

    running = [
        start_site(served_sites[name], peer) for name, peer in (("north", "south"), ("south", "north"))
    ]
    heard = [process.stdout.readline().decode().strip() for process in running]
    ended = [process.communicate(b"", timeout=100) for process in running]

    assert heard == ["south", "north"], ended


@pytest.fixture
def with_relay(mailboxes, tmp_path):
    """North's courier, with a relay that is not there yet."""
    mailboxes["north"].close()
    path = mailboxes["north"].site.path
    path.write_text(path.read_text() + 'relay = "folder:relay"\n')
    mailbox = Mailbox(load_site(path))
    made = Courier(mailbox, PLANS, SCHEMA, SIZES)
    made.start()
    yield made
    made.stop()
    mailbox.close()


def test_a_relay_that_is_down_gets_the_offer_later(with_relay, south, tmp_path):
    """It is told once, tried again, and collecting does not wait for it."""
    offer(south)

    exchange(with_relay, round=1)

    assert wait_for(with_relay.delivery).round == 1
    (message,) = wait_for(with_relay.messages)
    assert message.startswith("relay, round 1: cannot ")
    assert message.endswith("it is tried again")
    (tmp_path / "relay").mkdir()
    (line,) = wait_for(lambda: lines(with_relay.mailbox, "publish"))
    assert (line["verdict"], line["sequence"]) == ("published", 1)
    assert len(list((tmp_path / "relay").iterdir())) == 3
    assert with_relay.messages() == []


def test_a_newer_offer_replaces_one_that_waits_for_the_relay(with_relay, tmp_path):
    """What did not reach the relay is a line in the ledger; the next copy has both."""
    exchange(with_relay, round=1)
    wait_for(with_relay.messages)
    exchange(with_relay, round=2)
    wait_for(lambda: lines(with_relay.mailbox, "publish"))
    (tmp_path / "relay").mkdir()

    failed, published = wait_for(lambda: len(found := lines(with_relay.mailbox, "publish")) > 1 and found)

    assert (failed["verdict"], failed["round"]) == ("failed", 1)
    assert (published["verdict"], published["sequence"]) == ("published", 2)


def test_the_end_does_not_wait_for_a_relay(with_relay):
    """stop() returns although the relay never answers."""
    exchange(with_relay, round=1)
    wait_for(with_relay.messages)
    started = time.monotonic()

    with_relay.stop()

    assert time.monotonic() - started < 60
