"""A training without network and its agent: one touches local folders only, the other moves the files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from courier_kit import (
    FACTS,
    PLANS,
    SCHEMA,
    SIZES,
    Cut,
    Hanging,
    build_sites,
    facts_bytes,
    offer,
    republish,
    wait_for,
    write_payload,
)

from nnunet_gml.cli import main
from peer_sync import agent as agents
from peer_sync.agent import Agent
from peer_sync.errors import ConfigError, TransportError
from peer_sync.inbox import MANIFEST_FILE
from peer_sync.local import LocalCourier
from peer_sync.mailbox import TRAINS, Mailbox
from peer_sync.routes import way_to
from peer_sync.site import Site, load_site
from peer_sync.transport.folder import FolderTransport
from peer_sync.wanted import read_wanted


@pytest.fixture
def training(sites) -> Iterator[Mailbox]:
    """North's mailbox as a training on a compute node opens it."""
    mailbox = Mailbox(sites["north"], (TRAINS,))
    yield mailbox
    mailbox.close()


@pytest.fixture
def local(training) -> Iterator[LocalCourier]:
    """Its courier."""
    courier = LocalCourier(training, PLANS, SCHEMA, SIZES)
    courier.start()
    yield courier
    courier.stop()


@pytest.fixture
def other(sites) -> Iterator[Mailbox]:
    """South, which offers."""
    mailbox = Mailbox(sites["south"])
    yield mailbox
    mailbox.close()


def order(local: LocalCourier, round_: int = 1) -> None:
    """One exchange, and wait until its order lies there."""
    before = read_wanted(local.mailbox.wanted)
    payload = write_payload(local.mailbox.site.folder)
    local.exchange(payload, replace(FACTS, round=round_), ["south"])
    wait_for(lambda: read_wanted(local.mailbox.wanted) != before)


def sync(site: Site, **options: object) -> list:
    agent = Agent(site, **options)
    try:
        return agent.run()
    finally:
        agent.close()


def test_the_agent_brings_what_the_training_has_ordered(sites, local, other):
    """Offer and order are local; the agent collects; the training finds it, once."""
    manifest = offer(other)
    order(local)
    assert local.delivery() is None

    (step,) = sync(sites["north"])

    assert step.succeeded
    assert step.text.startswith("peer 'south', round 1: collected offer 1, ")
    delivery = local.delivery()
    assert (delivery.manifest, delivery.round, delivery.peer) == (manifest, 1, "south")
    assert delivery.payload.read_bytes() == b"weights" * 100
    assert local.delivery() is None
    local.mailbox.accept(delivery)
    (line,) = [json.loads(x) for x in local.mailbox.ledger.path.read_text().splitlines() if '"collect"' in x]
    assert (line["verdict"], line["bytes"]) == ("accepted", delivery.transferred_bytes)


def test_the_training_needs_no_way_to_its_peer(sites, local, monkeypatch):
    """Not even a socket is made."""
    import socket

    monkeypatch.setattr(socket, "socket", None)
    order(local)

    assert local.delivery() is None
    assert local.messages() == []
    assert len(list(local.mailbox.outbox.iterdir())) == 3


def test_training_and_agent_run_side_by_side_but_not_twice(sites, training):
    """Two locks: a second training and a second agent are refused."""
    agent = Agent(sites["north"])

    with pytest.raises(ConfigError, match="is used by another"):
        Agent(sites["north"])
    with pytest.raises(ConfigError, match="is used by another"):
        Mailbox(sites["north"], (TRAINS,))
    agent.close()
    Agent(sites["north"]).close()


def test_an_agent_beside_a_training_that_moves_its_own_files_is_refused(sites):
    """courier = "thread" holds both duties."""
    mailbox = Mailbox(sites["north"])

    with pytest.raises(ConfigError, match="is used by another"):
        Agent(sites["north"])
    mailbox.close()


def test_a_refused_duty_lets_go_of_the_others(sites):
    """A training that cannot move files does not keep the folder from the next one."""
    agent = Agent(sites["north"])
    with pytest.raises(ConfigError):
        Mailbox(sites["north"])
    agent.close()

    Mailbox(sites["north"]).close()


def test_an_answered_order_is_not_collected_again(sites, local, other):
    """However often cron comes by; a newer offer waits for the next round."""
    offer(other)
    order(local)
    sync(sites["north"])
    offer(other)

    (step,) = sync(sites["north"])

    assert step.text == "peer 'south', round 1: was answered"
    assert local.delivery().manifest.sequence == 1


def test_a_round_that_is_ordered_again_is_collected_again(sites, local, other):
    """--c repeats a round: the answer to the lost training's order does not count."""
    offer(other)
    order(local)
    sync(sites["north"])
    local.mailbox.accept(local.delivery())
    offer(other)
    order(local)

    (step,) = sync(sites["north"])

    assert "collected offer 2" in step.text


def test_without_an_order_the_agent_only_publishes(sites):
    """A site that has not come to its first round."""
    (step,) = sync(sites["north"])

    assert (step.text, step.succeeded) == ("the training has not ordered anything yet", True)


def test_a_training_that_ends_withdraws_its_order(sites, local):
    """The agent does not go on asking for nobody."""
    order(local)
    local.stop()

    (step,) = sync(sites["north"])

    assert step.text == "the training has not ordered anything yet"


def test_an_order_that_nobody_answered_is_said_at_the_next(local):
    """The log names the command that should be running."""
    order(local, 1)
    order(local, 2)

    (message,) = local.messages()
    assert message.startswith("peer 'south', round 1: nothing has come; training goes on without a peer")
    assert "nnunet-gml sync" in message


def test_a_peer_without_offer_is_no_failure(sites, local, other):
    """The exit code of cron's command stays 0."""
    order(local)

    (step,) = sync(sites["north"])

    assert step.succeeded
    assert "expected an offer, found none" in step.text


def test_a_peer_that_cannot_be_reached_is_a_failure_and_a_line(sites, local):
    """Looked at by a person, tried again by the next pass."""
    order(local)

    (step,) = sync(sites["north"], way_to=lambda site, peer: Down("nowhere"))

    assert not step.succeeded
    assert "no route" in step.text
    assert '"failed"' in local.mailbox.ledger.path.read_text()


class Down(FolderTransport):
    """Cannot be reached; says so in words that can be changed."""

    words = "no route"

    def names(self) -> list[str]:
        raise TransportError(self.words)


def collect_lines(mailbox: Mailbox) -> list[dict]:
    """The ledger's lines about collecting."""
    found = [json.loads(line) for line in mailbox.ledger.path.read_text().splitlines()]
    return [line for line in found if line["event"] == "collect"]


def test_the_same_failure_is_one_line_for_an_order(sites, local):
    """An agent that watches makes a pass a minute: a new line only for other words or another order."""
    way = Down("nowhere")
    agent = Agent(sites["north"], way_to=lambda site, peer: way)
    order(local, 1)
    assert [agent.run()[0].succeeded for _ in range(3)] == [False] * 3
    assert [line["round"] for line in collect_lines(local.mailbox)] == [1]

    way.words = "connection refused"
    agent.run()
    order(local, 2)
    agent.run()
    agent.run()

    assert [line["round"] for line in collect_lines(local.mailbox)] == [1, 1, 2]
    agent.close()


def test_the_same_failure_of_the_relay_is_one_line_until_it_works(tmp_path, sites, local):
    """Also without an order; after a copy that worked, it is news again."""
    path = sites["north"].path
    path.write_text(path.read_text() + 'relay = "folder:relay"\n')
    order(local)
    agent = Agent(load_site(path))

    def failures() -> int:
        lines = local.mailbox.ledger.path.read_text().splitlines()
        return len([line for line in lines if '"publish"' in line and '"failed"' in line])

    agent.run()
    agent.run()
    assert failures() == 1
    (tmp_path / "relay").mkdir()
    agent.run()
    assert failures() == 1
    (tmp_path / "relay").rename(tmp_path / "gone")
    agent.run()
    assert failures() == 2
    agent.close()


def test_the_agents_bytes_are_each_in_one_line(sites, local, other):
    """Cut at 200 and at 500 bytes in the same words: one failed line, the second's are in the last one."""
    offer(other)
    way, facts = Cut(other.outbox, 200, 500), facts_bytes(other)
    agent = Agent(sites["north"], way_to=lambda site, peer: way)
    order(local)
    for _ in range(3):
        agent.run()
    agent.close()

    local.mailbox.accept(local.delivery())

    failed, accepted = collect_lines(local.mailbox)
    assert (failed["verdict"], failed["bytes"]) == ("failed", facts + 200)
    assert (accepted["verdict"], accepted["bytes"]) == ("accepted", 2 * facts + 500)


def test_a_slow_peer_is_cut_for_a_newer_order(sites, local, other, monkeypatch):
    """After five minutes, here a third of a second; the next pass serves the newer order."""
    monkeypatch.setattr(agents, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(agents, "WATCH_SECONDS", 0.05)
    slow = Hanging()
    ways = iter([slow, FolderTransport(other.outbox)])
    agent = Agent(sites["north"], way_to=lambda site, peer: next(ways))
    order(local, 1)
    passing = threading.Thread(target=agent.run)
    passing.start()
    wait_for(slow.asked.is_set)
    time.sleep(0.8)
    assert not slow.closed.is_set()
    offer(other)

    order(local, 2)

    passing.join(60)
    assert not passing.is_alive()
    assert agent.run()[0].text.startswith("peer 'south', round 2: collected offer 1")
    agent.close()


def test_a_young_transfer_is_not_cut_for_a_newer_order(sites, local, monkeypatch):
    """What has just begun may be nearly there."""
    monkeypatch.setattr(agents, "WATCH_SECONDS", 0.05)
    slow = Hanging()
    agent = Agent(sites["north"], way_to=lambda site, peer: slow)
    order(local, 1)
    passing = threading.Thread(target=agent.run)
    passing.start()
    wait_for(slow.asked.is_set)

    order(local, 2)
    time.sleep(0.5)

    assert not slow.closed.is_set()
    slow.close()
    passing.join(60)
    agent.close()


def test_a_late_delivery_of_the_agent_can_be_dropped(sites, local, other):
    """The training was handed it after its wait: a line, no file, and nothing is remembered."""
    offer(other)
    order(local)
    sync(sites["north"])
    late = local.delivery()

    local.mailbox.drop(late, "it came after the wait of its round")

    (line,) = collect_lines(local.mailbox)
    assert (line["verdict"], line["message"]) == ("failed", "it came after the wait of its round")
    assert (late.payload.exists(), local.mailbox.last_sequence("south")) == (False, 0)
    assert local.delivery() is None


def test_a_refused_offer_is_in_quarantine_and_a_failure(sites, local, other):
    """The agent applies every rule of the courier."""
    republish(other, replace(offer(other), plans_digest="f" * 64))
    order(local)

    (step,) = sync(sites["north"])

    assert not step.succeeded
    assert "rule plans" in step.text
    assert local.delivery() is None


def test_what_lies_in_the_inbox_is_checked_once_more(sites, local, other):
    """Somebody who can write there cannot make the training use other facts."""
    offer(other)
    order(local)
    sync(sites["north"])
    (place,) = (local.mailbox.inbox / "south").iterdir()
    data = (place / MANIFEST_FILE).read_bytes()
    (place / MANIFEST_FILE).write_bytes(data.replace(b'"epoch":50', b'"epoch":51'))

    assert local.delivery() is None

    (message,) = local.messages()
    assert "signature" in message
    assert local.delivery() is None


def test_the_agent_copies_to_the_relay(tmp_path, sites, local):
    """relay = "folder:..." in site.toml; a second pass has nothing to do."""
    (tmp_path / "relay").mkdir()
    path = sites["north"].path
    path.write_text(path.read_text() + 'relay = "folder:relay"\n')
    order(local)
    site = load_site(path)

    first, second = sync(site), sync(site)

    assert first[0].text.startswith("relay: put 3 files, ")
    assert second[0].text == "relay: up to date with offer 1"
    names = {path.name for path in local.mailbox.outbox.iterdir()}
    assert {path.name for path in (tmp_path / "relay").iterdir()} == names


def test_a_relay_that_is_gone_does_not_keep_from_collecting(tmp_path, sites, local, other):
    """The two halves of a pass are independent."""
    path = sites["north"].path
    path.write_text(path.read_text() + 'relay = "folder:missing"\n')
    offer(other)
    order(local)

    published, collected = sync(load_site(path))

    assert not published.succeeded
    assert "missing" in published.text
    assert "collected offer 1" in collected.text


def test_the_command_makes_one_pass(sites, local, other, capsys):
    """Exit code 0, a line with the time, ready for cron."""
    offer(other)
    order(local)

    assert main(["sync", str(sites["north"].path)]) == 0

    assert "peer 'south', round 1: collected offer 1" in capsys.readouterr().out


def test_the_command_fails_when_a_person_should_look(sites, local, other, capsys):
    """Exit code 1 for a refusal."""
    republish(other, replace(offer(other), plans_digest="f" * 64))
    order(local)

    assert main(["sync", str(sites["north"].path)]) == 1


def test_watching_serves_order_after_order_until_it_is_ended(sites, local, other):
    """A process of its own; SIGTERM ends it with exit code 0 and frees the folder."""
    offer(other)
    command = [sys.executable, "-m", "nnunet_gml.cli", "sync", "--watch", "--every", "0.2"]
    process = subprocess.Popen([*command, str(sites["north"].path)], stdout=subprocess.PIPE, text=True)
    try:
        order(local, 1)
        first = wait_for(local.delivery, 100)
        local.mailbox.accept(first)
        offer(other)
        order(local, 2)
        second = wait_for(local.delivery, 100)
        told = (line for line in process.stdout if "collected offer" in line)
        assert len(list(islice(told, 2))) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)

    assert (first.manifest.sequence, second.manifest.sequence) == (1, 2)
    assert process.returncode == 0
    Agent(sites["north"]).close()


def test_a_key_that_cannot_be_used_stops_the_training_before_its_first_epoch(sites, training, monkeypatch):
    """Not at the first offer, hours later: a forgotten ssh-add is a matter of the start."""
    key = sites["north"].private_key
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", key], check=True)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    with pytest.raises(ConfigError, match="ssh-agent"):
        LocalCourier(training, PLANS, SCHEMA, SIZES).start()


def test_a_refused_order_is_not_asked_for_again(sites, local, other):
    """Whatever the peer offers, its payload crosses the network once for an order."""
    manifest = offer(other)
    (other.outbox / manifest.payload).write_bytes(b"weighty" * 100)
    order(local)
    (first,) = sync(sites["north"])

    (second,) = sync(sites["north"])

    assert "rule sha256" in first.text
    assert (second.text, second.succeeded) == ("peer 'south', round 1: was answered", True)
    lines = local.mailbox.ledger.path.read_text().splitlines()
    assert len([line for line in lines if '"refused"' in line]) == 1


def test_a_late_answer_does_not_leave_the_training_a_round_behind(sites, local, other):
    """What an earlier order has brought is handed out, and the answer to the last one as well."""
    offer(other)
    order(local, 1)
    sync(sites["north"])
    order(local, 2)
    late = local.delivery()
    local.mailbox.accept(late)
    offer(other)
    sync(sites["north"])

    fresh = local.delivery()

    assert (late.round, fresh.round, fresh.manifest.sequence) == (1, 2, 2)
    local.mailbox.accept(fresh)
    assert local.delivery() is None


def test_weights_exchanged_in_the_inbox_are_refused(sites, local, other):
    """The hash is checked where they are read; it is a line in the ledger and lies in quarantine."""
    offer(other)
    order(local)
    sync(sites["north"])
    (place,) = (local.mailbox.inbox / "south").iterdir()
    (place / "weights.safetensors").write_bytes(b"weighty" * 100)

    assert local.delivery() is None

    assert "SHA-256" in local.messages()[0]
    assert '"sha256"' in local.mailbox.ledger.path.read_text()
    assert list((local.mailbox.site.folder / "quarantine" / "south").iterdir())


def test_a_note_in_the_inbox_cannot_name_another_peer(sites, local, other):
    """The folder says whose it is; a round that is no number is no delivery."""
    offer(other)
    order(local)
    sync(sites["north"])
    (place,) = (local.mailbox.inbox / "south").iterdir()
    note = json.loads((place / "delivery.json").read_text())
    (place / "delivery.json").write_text(json.dumps({**note, "peer": "../../x"}))

    assert local.delivery().peer == "south"
    (place / "delivery.json").write_text(json.dumps({**note, "round": "r"}))
    assert local.mailbox.waiting("south", PLANS, SCHEMA, SIZES) is None


def fail(*_: object) -> None:
    """A disk that does not do what it should."""
    raise OSError(116, "Stale file handle")


def test_a_disk_that_fails_for_a_moment_costs_nothing(sites, local, other, monkeypatch):
    """Told once, tried again, handed out."""
    offer(other)
    order(local)
    sync(sites["north"])
    with monkeypatch.context() as patch:
        patch.setattr("peer_sync.inbox.sha256_of", fail)
        assert local.delivery() is None
        assert local.delivery() is None
    assert len(local.messages()) == 1

    assert local.delivery().manifest.sequence == 1


def test_a_bug_in_a_pass_does_not_end_the_agent(sites, local, other, monkeypatch, caplog):
    """It is a step that failed; the next pass is made."""
    order(local)
    agent = Agent(sites["north"])
    with monkeypatch.context() as patch:
        patch.setattr(agent.mailbox, "collect", lambda *_, **__: 1 / 0)
        (step,) = agent.run()

    assert not step.succeeded
    assert "unexpected error, ZeroDivisionError" in step.text
    offer(other)
    assert agent.run()[0].succeeded
    agent.close()


def test_an_old_delivery_that_cannot_be_removed_stays(sites, local, other, monkeypatch):
    """A file that NFS still holds is not a reason to fetch everything again."""
    for round_ in (1, 2, 3):
        offer(other)
        order(local, round_)
        with monkeypatch.context() as patch:
            patch.setattr(
                "peer_sync.inbox.remove", lambda path: (_ for _ in ()).throw(OSError(39, "not empty"))
            )
            (step,) = sync(sites["north"])
        assert step.succeeded
        local.mailbox.accept(local.delivery())


@pytest.fixture
def boxes(tmp_path) -> Iterator[dict[str, Mailbox]]:
    """North, which trains without network, and three that offer."""
    sites = build_sites(tmp_path, ("north", "east", "south", "west"))
    opened = {name: Mailbox(site, (TRAINS,)) for name, site in sites.items()}
    yield opened
    for mailbox in opened.values():
        mailbox.close()


@pytest.fixture
def step_by_step(boxes) -> Iterator[LocalCourier]:
    """North's courier."""
    courier = LocalCourier(boxes["north"], PLANS, SCHEMA, SIZES)
    courier.start()
    yield courier
    courier.stop()


def order_of_all(local: LocalCourier, round_: int = 1) -> None:
    """In step with three peers; wait until the order lies there."""
    before = read_wanted(local.mailbox.wanted)
    payload = write_payload(local.mailbox.site.folder)
    local.exchange(payload, replace(FACTS, round=round_), ("east", "south", "west"), round_)
    wait_for(lambda: read_wanted(local.mailbox.wanted) != before)


def handed_out(local: LocalCourier) -> dict[str, int]:
    """All deliveries there are, accepted: peer and the peer's round."""
    found = {}
    while delivery := local.delivery():
        local.mailbox.accept(delivery)
        found[delivery.peer] = delivery.manifest.round
    return found


def test_one_order_names_several_peers(boxes, step_by_step):
    """Each is a step of its own; what is there is handed out, the rest comes with a later pass."""
    north = boxes["north"].site
    offer(boxes["east"], round=2)
    offer(boxes["south"], round=1)
    order_of_all(step_by_step, 2)

    steps = sync(north)

    assert steps[0].text.startswith("peer 'east', round 2: collected offer 1")
    assert "expected an offer of round 2 or later, found round 1" in steps[1].text
    assert steps[2].text.startswith("peer 'west', round 2, rule nothing new: expected an offer, found none")
    assert all(step.succeeded for step in steps)
    assert handed_out(step_by_step) == {"east": 2}
    for name in ("south", "west"):
        offer(boxes[name], round=2)
    assert [step.text.split(": ", 1)[1][:9] for step in sync(north)] == [
        "was answe",
        "collected",
        "collected",
    ]
    assert handed_out(step_by_step) == {"south": 2, "west": 2}
    assert step_by_step.messages() == []


def test_open_are_the_peers_the_agent_still_owes(boxes, step_by_step):
    """East is refused, south has delivered and is open until that is fetched, west has nothing yet."""
    republish(boxes["east"], replace(offer(boxes["east"]), plans_digest="e" * 64))
    offer(boxes["south"])
    assert step_by_step.open_peers() == set()
    order_of_all(step_by_step)
    assert step_by_step.open_peers() == {"east", "south", "west"}

    sync(boxes["north"].site)

    assert step_by_step.open_peers() == {"south", "west"}
    assert handed_out(step_by_step) == {"south": 1}
    assert step_by_step.open_peers() == {"west"}
    order_of_all(step_by_step, 2)
    assert step_by_step.open_peers() == {"east", "south", "west"}


def test_out_of_step_a_late_answer_leaves_the_last_order_open(sites, local, other):
    """The agent answered round 1; what it owes for round 2 may still come."""
    offer(other)
    order(local, 1)
    sync(sites["north"])
    order(local, 2)

    local.mailbox.accept(local.delivery())

    assert local.open_peers() == {"south"}


def test_a_round_in_step_that_is_ordered_again_has_its_weights_at_once(boxes, step_by_step):
    """They lie in the inbox, accepted before the kill; each is handed out once for an order."""
    for name in ("east", "south", "west"):
        offer(boxes[name], round=2)
    order_of_all(step_by_step, 2)
    sync(boxes["north"].site)
    first = handed_out(step_by_step)
    step_by_step.stop()
    again = LocalCourier(boxes["north"], PLANS, SCHEMA, SIZES)
    again.start()

    order_of_all(again, 2)

    assert handed_out(again) == first == {"east": 2, "south": 2, "west": 2}
    assert again.delivery() is None
    order_of_all(again, 3)
    assert again.delivery() is None
    again.stop()


def test_the_silent_ones_of_several_peers_are_named(boxes, step_by_step):
    """East has answered; south and west get a sentence each when the next round is ordered."""
    offer(boxes["east"])
    order_of_all(step_by_step, 1)
    sync(boxes["north"].site)
    handed_out(step_by_step)

    order_of_all(step_by_step, 2)

    said = step_by_step.messages()
    assert [message.split(":")[0] for message in said] == ["peer 'south', round 1", "peer 'west', round 1"]
    assert all("nothing has come; training goes on without this peer" in message for message in said)


def test_a_silent_peer_does_not_keep_the_agent_from_the_others(boxes, step_by_step):
    """They are asked at the same time: what west has is handed out while south still says nothing."""
    silent = Hanging()
    for name in ("east", "west"):
        offer(boxes[name])
    order_of_all(step_by_step)
    agent = Agent(boxes["north"].site, lambda site, peer: silent if peer == "south" else way_to(site, peer))
    passing = threading.Thread(target=agent.run)
    passing.start()

    found = {}
    wait_for(lambda: found.update(handed_out(step_by_step)) or len(found) == 2)

    assert (set(found), passing.is_alive()) == ({"east", "west"}, True)
    silent.close()
    passing.join(60)
    agent.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_agent_that_is_ended_in_a_pass_with_several_peers_ends(boxes, step_by_step):
    """SIGTERM and Ctrl-C cut what is under way; no thread stays."""
    ways = {name: Hanging() for name in ("east", "south", "west")}
    order_of_all(step_by_step)
    agent = Agent(boxes["north"].site, lambda site, peer: ways[peer])
    main_thread = threading.main_thread().ident

    def interrupt() -> None:
        for way in ways.values():
            way.asked.wait(60)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    started = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        agent.run()

    assert time.monotonic() - started < 100
    assert all(way.closed.is_set() for way in ways.values())
    agent.close()


@pytest.mark.parametrize("peers", ['"south"', "[1]", "null"])
def test_a_damaged_order_is_a_failed_step(sites, local, peers):
    """Not a peer called s."""
    order(local)
    path = local.mailbox.wanted
    path.write_text(path.read_text().replace('["south"]', peers))

    (step,) = sync(sites["north"])

    assert not step.succeeded
    assert "peers is no list of names" in step.text
