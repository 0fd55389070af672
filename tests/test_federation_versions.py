"""Sites whose federation files differ: each says by name who has to do what, and goes on alone."""

from __future__ import annotations

from contextlib import closing

import pytest
from courier_kit import (
    FACTS,
    PLANS,
    SCHEMA,
    SIZES,
    build_sites,
    collect,
    offer,
    running_server,
    wait_for,
    write_payload,
)

from peer_sync import founding
from peer_sync.courier import Courier
from peer_sync.errors import ConfigError, LoginError, RejectedError
from peer_sync.identity import generate_key
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import parse
from peer_sync.names import manifest_name
from peer_sync.orders import WITHOUT_PEER
from peer_sync.routes import way_to
from peer_sync.server.embedded import Server
from peer_sync.site import Site, load_site


@pytest.fixture
def sites(tmp_path) -> dict[str, Site]:
    """North and south; each has a federation.toml of its own, version 1, the same bytes."""
    made = build_sites(tmp_path)
    for name, site in made.items():
        own = tmp_path / f"{name}-federation.toml"
        own.write_bytes(site.federation.path.read_bytes())
        site.path.write_text(site.path.read_text().replace('"federation.toml"', f'"{own.name}"'))
    return {name: load_site(site.path) for name, site in made.items()}


def changed(site: Site, old: str, new: str, of_site: bool = False) -> Site:
    """The same site with another federation file, or another site file."""
    path = site.path if of_site else site.federation.path
    path.write_text(path.read_text().replace(old, new, 1))
    return load_site(site.path)


def refusal(reader: Site, writer: Site) -> RejectedError:
    """What the reader says of the writer's first offer."""
    with closing(Mailbox(writer)) as theirs, closing(Mailbox(reader)) as ours:
        offer(theirs)
        with pytest.raises(RejectedError) as caught:
            collect(ours, theirs)
    return caught.value


def test_the_version_is_in_every_manifest(sites):
    """Signed with all the rest."""
    south = changed(sites["south"], "seed = 7", "version = 5\nseed = 7")
    with closing(Mailbox(south)) as box:
        offer(box)
        data = (box.outbox / manifest_name(1)).read_bytes()

    assert parse(data).federation_version == 5


def test_a_newer_file_at_the_peer_is_to_be_fetched(sites):
    """Both sites, both versions, and what to do until then."""
    error = refusal(sites["north"], changed(sites["south"], "seed = 7", "version = 3\nseed = 7"))

    assert error.rule == "federation"
    assert "expected version 1, digest" in str(error) and "as site 'north' has it" in str(error)
    assert "found version 3, digest" in str(error) and "at site 'south'" in str(error)
    assert "'south' has a newer federation.toml: put version 3 in the place of ours" in error.hint
    assert "until then we train without 'south'" in error.hint


def test_an_older_file_at_the_peer_is_to_be_replaced_there(sites):
    """The peer has to act, not we."""
    error = refusal(changed(sites["north"], "seed = 7", "version = 3\nseed = 7"), sites["south"])

    assert "'south' has an older federation.toml, version 1: send it version 3" in error.hint


def test_one_version_with_two_contents_is_to_be_compared(sites):
    """Somebody edited the file by hand: nobody can tell from here whose is right."""
    error = refusal(changed(sites["north"], "seed = 7", "seed = 8"), sites["south"])

    assert "two files call themselves version 1: compare digests" in error.hint


def test_a_new_key_at_the_peer_is_told_as_such(sites):
    """A signature by another key may be a theft, or a card that has not come round."""
    key = sites["south"].federation.member("south").public_key
    stranger = generate_key(sites["north"].folder.parent / "stranger")

    error = refusal(changed(sites["north"], key, stranger), sites["south"])

    assert error.rule == "signature"
    assert "if site 'south' has a new key, a new federation.toml is needed" in error.hint


def test_after_the_new_file_the_refused_offer_is_taken(sites):
    """A refusal for the version does not use the offer up."""
    south = changed(sites["south"], "seed = 7", "version = 2\nseed = 7")
    refusal(sites["north"], south)

    north = changed(sites["north"], "seed = 7", "version = 2\nseed = 7")
    with closing(Mailbox(north)) as ours, closing(Mailbox(south)) as theirs:
        assert collect(ours, theirs).manifest.federation_version == 2


def test_a_removed_site_is_neither_let_in_nor_asked(tmp_path):
    """From the new version on, though its own file still names everybody."""
    sites = build_sites(tmp_path, ("east", "north", "south"), served=True)
    (tmp_path / "old.toml").write_bytes((tmp_path / "federation.toml").read_bytes())
    south = changed(sites["south"], "federation.toml", "old.toml", of_site=True)
    founding.remove(tmp_path / "federation.toml", ["south"])
    north = load_site(sites["north"].path)

    with running_server(Server(north)), closing(way_to(south, "north")) as way, pytest.raises(LoginError):
        way.names()
    assert north.federation.peers_of("north") == ("east",)
    with pytest.raises(ConfigError, match="no site is called 'south'"):
        way_to(north, "south")


def test_the_training_is_told_what_to_do_and_goes_on_alone(sites):
    """One sentence in its log: both sites, both versions, the way out."""
    south = changed(sites["south"], "seed = 7", "version = 3\nseed = 7")
    with closing(Mailbox(south)) as theirs, closing(Mailbox(sites["north"])) as ours:
        offer(theirs)
        courier = Courier(ours, PLANS, SCHEMA, SIZES)
        courier.start()
        try:
            courier.exchange(write_payload(ours.site.folder), FACTS, ["south"])
            (message,) = wait_for(courier.messages)
        finally:
            courier.stop()

    assert "version 1, digest" in message and "as site 'north' has it" in message
    assert "site 'south' has a newer federation.toml: put version 3 in the place of ours" in message
    assert message.endswith(WITHOUT_PEER)
