"""A federation.toml that changes while programs run: taken when it is whole and fits, left when not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from courier_kit import FACTS, PLANS, SCHEMA, SIZES, build_sites, offer, wait_for, write_payload

from nnunet_gml.renewal import check_change
from peer_sync import founding, renewal
from peer_sync.agent import Agent
from peer_sync.courier import Courier
from peer_sync.errors import ConfigError, LoginError, TransportError
from peer_sync.federation import Federation, Member
from peer_sync.gossip import draw_peer
from peer_sync.mailbox import TRAINS, Mailbox
from peer_sync.manifest import parse
from peer_sync.names import manifest_name
from peer_sync.renewal import Renewal, news
from peer_sync.routes import way_to
from peer_sync.server.process import ServerProcess
from peer_sync.site import Site, load_site
from peer_sync.wanted import Wanted

NAMES = ("east", "north", "south")


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """A change has settled sooner than in earnest."""
    monkeypatch.setattr(renewal, "SETTLE_SECONDS", 0.3)


@pytest.fixture
def sites(tmp_path) -> dict[str, Site]:
    """Three sites in folders, with one federation.toml."""
    return build_sites(tmp_path, NAMES)


def federation_of(sites: dict[str, Site]) -> Federation:
    return sites["north"].federation


def rewrite(federation: Federation, old: str, new: str) -> None:
    """As an editor does."""
    federation.path.write_text(federation.path.read_text().replace(old, new, 1))


def test_a_changed_file_is_taken_once(sites):
    """With everything else of the site as it was, and a sentence that names who came and went."""
    looking = Renewal(sites["north"])
    assert looking.settled() is None
    founding.remove(federation_of(sites).path, ["south"])

    taken = looking.settled()

    assert taken == load_site(sites["north"].path)
    assert looking.settled() is None
    assert news(federation_of(sites), taken.federation).endswith(
        "version 1 before, version 2 from now on; without south"
    )


def test_a_file_that_is_still_being_written_is_waited_for(sites, monkeypatch):
    """Half of it is good TOML and names two of three sites: nobody is left out for that."""
    clock = Clock()
    monkeypatch.setattr(renewal, "time", clock)
    looking, path = Renewal(sites["north"]), federation_of(sites).path
    whole = path.read_text() + "\n# changed\n"
    half = whole[: whole.rindex("[[sites]]")]
    for text in ("", half, whole[:-20]):
        path.write_text(text)
        assert looking.look() is None
        clock.sleep(0.15)
        assert looking.look() is None
    path.write_text(whole)

    assert len(looking.settled().federation.members) == 3


class Clock:
    """Time that passes only in pauses."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_file_that_is_gone_for_a_moment_is_waited_for(sites):
    """An editor may move it away and write it anew."""
    looking, path = Renewal(sites["north"]), federation_of(sites).path
    text = path.read_text()
    path.unlink()
    assert looking.look() is None

    path.write_text(text)

    assert looking.settled() is None


REFUSED = {
    "damaged": ("[[sites]]", "[[sites", "is not valid TOML"),
    "another federation": ('"demo"', '"other"', "is that of federation 'other', expected 'demo'"),
    "an older version": ("version = 5", "version = 4", "has version 4, expected 5 or later"),
    "without us": ('name = "north"', 'name = "west"', "no site is called 'north'"),
    "another key of ours": ("KEY", "OTHER", "but federation.toml expects"),
    "too deep": ("version = 5", f"version = {'[' * 5000}", "is not valid TOML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_said_once_and_the_old_one_goes_on(sites, case):
    """Then a good one is taken, without a new start."""
    old, new, message = REFUSED[case]
    rewrite(federation_of(sites), "seed = 7", "version = 5\nseed = 7")
    north = load_site(sites["north"].path)
    path, looking = north.federation.path, Renewal(north)
    good = path.read_text()
    keys = {"KEY": north.member.public_key, "OTHER": f"{sites['south'].member.public_key[:-4]}AAAA"}
    path.write_text(good.replace(keys.get(old, old), keys.get(new, new), 1))

    with pytest.raises(ConfigError, match="is not taken, version 5 goes on") as caught:
        looking.settled()
    assert message in str(caught.value)
    assert looking.settled() is None
    assert looking.site is north

    path.write_text(good.replace("version = 5", "version = 6", 1))
    assert looking.settled().federation.version == 6


def test_a_site_that_left_may_still_stand_behind_the_jump_host(sites):
    """In site.toml, which nobody has come to: the withdrawal counts at once."""
    host = sites["south"].member.public_key
    jump = f'[jump]\naddress = "sftp://gate:22"\nhost_key = "{host}"\npeers = ["east", "south"]\n'
    path = sites["north"].path
    path.write_text(path.read_text() + jump)
    looking = Renewal(load_site(path))

    founding.remove(federation_of(sites).path, ["south"])

    assert looking.settled().jump.peers == ("east",)


CHANGES = {
    "seed": ("seed = 7", "seed = 8"),
    "classes": ("seed = 7", 'classes = ["a"]\nseed = 7'),
    "plans_digest": (PLANS, "d" * 64),
    "labelled of site north": ('name = "north"', 'name = "north"\nlabelled = ["a"]'),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_training_keeps_what_it_is_built_upon(sites, what):
    """Each of these would make its weights, its losses or its draws others than those it began with."""
    before = sites["north"]
    rewrite(before.federation, *CHANGES[what])

    with pytest.raises(ConfigError, match=f"^{what} is .*, but this training began with"):
        check_change(before, load_site(before.path), PLANS)


def test_plans_that_are_agreed_on_later_are_taken_if_they_are_ours(sites):
    """Sites may begin before the digest stands in the file."""
    rewrite(federation_of(sites), f'plans_digest = "{PLANS}"\n', "")
    before = load_site(sites["north"].path)
    founding.agree(before.federation.path, PLANS)

    check_change(before, load_site(before.path), PLANS)


@pytest.fixture
def running(tmp_path):
    """Three sites with servers; that of north runs, in a process of its own."""
    sites = build_sites(tmp_path, NAMES, served=True)
    with served(sites["north"]):
        yield sites


@contextmanager
def served(site: Site) -> Iterator[None]:
    """As a training serves its outbox."""
    process = ServerProcess(site)
    try:
        yield
    finally:
        process.stop()


def test_a_removed_sites_key_opens_nothing_any_more(running):
    """Within seconds: its open connection is ended, it cannot come back, and the others stay connected."""
    east, south = (way_to(running[name], "north") for name in ("east", "south"))
    with closing(east), closing(south):
        assert east.names() == south.names() == []
        stayed, ended = east._connection, south._connection.client().sock

        founding.remove(federation_of(running).path, ["south"])

        wait_for(lambda: ended._closed)
        south.close()
        with pytest.raises(LoginError):
            south.names()
        assert east.names() == [] and east._connection is stayed
    said = (running["north"].folder / "server.log").read_text()
    assert "version 1 before, version 2 from now on; without south" in said
    assert "south: dismissed after" in said and "its key is no longer in federation.toml" in said


def test_an_added_site_is_let_in_by_a_server_that_runs(tmp_path):
    """No restart; whoever knocked too early tries again."""
    sites = build_sites(tmp_path, NAMES, served=True)
    path, south = federation_of(sites).path, sites["south"].member
    founding.remove(path, ["south"])
    north = load_site(sites["north"].path)
    with served(north), closing(way_to(sites["south"], "north")) as way:
        with pytest.raises(LoginError):
            way.names()

        founding.add(path, [south])

        assert wait_for(lambda: listed(way)) == [[]]


def listed(way) -> list:
    """What a listing gave, in a list; an empty one where it failed."""
    try:
        return [way.names()]
    except TransportError:
        way.close()
        return []


def test_a_damaged_file_shuts_nobody_out(running):
    """The server says so in its log, once, and goes on by the old one."""
    path = federation_of(running).path
    path.write_text(path.read_text().replace("[[sites]]", "[[sites", 1))
    log = running["north"].folder / "server.log"

    wait_for(lambda: "is not taken, version 1 goes on" in log.read_text())

    with closing(way_to(running["south"], "north")) as way:
        assert way.names() == []
    time.sleep(1.5)
    assert log.read_text().count("is not taken") == 1


def test_the_agent_takes_it_at_its_next_turn(sites):
    """It asks whom the new file names, and says that somebody is not in it any more."""
    with closing(Mailbox(sites["south"])) as theirs, closing(Mailbox(sites["north"], (TRAINS,))) as training:
        agent = Agent(sites["north"])
        Wanted(("south",), 1, PLANS, SCHEMA, SIZES).write(training.wanted)
        offer(theirs)
        founding.remove(federation_of(sites).path, ["south"])

        texts = [step.text for step in agent.run()]
        agent.close()

    assert texts[0].endswith("version 2 from now on; without south")
    assert texts[1] == "peer 'south', round 1: is not in federation.toml any more, and is not asked"
    assert not list((sites["north"].folder / "inbox").glob("south/*"))


def exchange(courier: Courier, peer: str) -> None:
    courier.exchange(write_payload(courier.mailbox.site.folder), FACTS, [peer])


def test_a_courier_goes_on_with_the_new_file_as_after_a_new_start(sites):
    """What south has sent meanwhile is dropped, our offers name the new version, east answers under it."""
    with closing(Mailbox(sites["north"])) as ours, closing(Mailbox(sites["south"])) as theirs:
        first = Courier(ours, PLANS, SCHEMA, SIZES)
        first.start()
        offer(theirs)
        exchange(first, "south")
        wait_for(lambda: first._deliveries)
        founding.remove(federation_of(sites).path, ["south"])
        site = Renewal(sites["north"]).settled()

        second = first.renewed(site)
        second.start()
        with closing(Mailbox(load_site(sites["east"].path))) as east:
            made = offer(east)
            exchange(second, "east")
            delivery = wait_for(second.delivery)
        second.stop()

    assert first.delivery() is None and not first._deliveries
    assert delivery.manifest == made and made.federation == site.federation.digest
    offered = parse((ours.outbox / manifest_name(2)).read_bytes())
    assert (offered.federation_version, offered.recipients) == (2, ("east",))


def test_peers_are_drawn_as_after_a_new_start(sites):
    """Ten rounds among those that are left, by the same seed."""
    looking = Renewal(sites["north"])
    founding.remove(federation_of(sites).path, ["south"])
    founding.add(federation_of(sites).path, [new_member(sites)])

    def draws(site: Site) -> list[str]:
        peers = site.federation.peers_of(site.name)
        return [draw_peer(site.federation.seed, site.name, round_, peers) for round_ in range(1, 11)]

    assert draws(looking.settled()) == draws(load_site(sites["north"].path))
    assert set(draws(looking.site)) == {"east", "west"}


def new_member(sites: dict[str, Site]) -> Member:
    """West, which joins."""
    key = sites["south"].member.public_key
    return Member("west", key, "folder:west")
