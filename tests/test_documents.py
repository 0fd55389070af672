"""Signed documents beside the offers: what one site states, a peer reads, or refuses by a named rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from courier_kit import build_sites, offer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer_sync import documents, identity
from peer_sync.errors import ConfigError, NotFoundError, RejectedError, TransportError, quoted
from peer_sync.mailbox import Mailbox
from peer_sync.site import Site
from peer_sync.transport.folder import FolderTransport

CONTENT = {"cases": 208, "mean": 0.1, "names": ["Mandible", "Süd"], "nothing": None}


@pytest.fixture
def sites(tmp_path) -> dict[str, Site]:
    return build_sites(tmp_path)


def published(site: Site, kind: str = "counts") -> Path:
    return site.folder / "outbox" / f"{kind}.document"


def forge(outbox_of: Site, **changes: object) -> None:
    """Put a document into a site's outbox with other fields, signed by the site's own key."""
    path = published(outbox_of)
    facts = json.loads(path.read_bytes().splitlines()[0])
    line = json.dumps({**facts, **changes}, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    key = identity.load_site_key(outbox_of.private_key)
    path.write_bytes(line + identity.sign(key, line))


def test_what_is_published_is_collected(sites):
    """Content, kind, site and time come as they were stated, numbers to the last bit."""
    document = documents.publish(sites["south"], "counts", CONTENT)

    assert documents.collect(sites["north"], "south", "counts") == document
    assert document.content == CONTENT


def test_a_site_reads_its_own_document(sites):
    """No way to itself is needed: the outbox has it."""
    document = documents.publish(sites["south"], "about", CONTENT)

    assert documents.collect(sites["south"], "south", "about") == document


def test_a_newer_document_takes_the_place_of_the_last_one(sites):
    """Published twice within a second, the second one is later by its own words, and is what peers get."""
    first = documents.publish(sites["south"], "counts", {"cases": 1})
    second = documents.publish(sites["south"], "counts", {"cases": 2})

    assert second.created > first.created
    assert documents.collect(sites["north"], "south", "counts").content == {"cases": 2}


def test_what_is_not_there_is_not_found(sites):
    """Later it may be: an error that says try again."""
    documents.publish(sites["south"], "about", CONTENT)

    with pytest.raises(NotFoundError):
        documents.collect(sites["north"], "south", "plans")


def test_a_document_put_back_is_refused(sites):
    """Whoever keeps the outbox cannot bring an old statement back."""
    documents.publish(sites["south"], "counts", {"cases": 1})
    old = published(sites["south"]).read_bytes()
    documents.publish(sites["south"], "counts", {"cases": 2})
    documents.collect(sites["north"], "south", "counts")
    published(sites["south"]).write_bytes(old)

    with pytest.raises(RejectedError) as error:
        documents.collect(sites["north"], "south", "counts")

    assert error.value.rule == "older"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"protocol": "nnunet-gml/2"}, "protocol"),
        ({"federation": "other"}, "federation"),
        ({"site": "north"}, "site"),
        ({"kind": "plans"}, "document"),
        ({"created": "yesterday"}, "document"),
        ({"created": 7}, "document"),
        ({"content": []}, "document"),
        ({"more": 1}, "document"),
    ],
)
def test_a_field_that_is_not_right_is_refused(sites, changes, rule):
    """Signed by the right key, and yet not what was asked for."""
    documents.publish(sites["south"], "counts", CONTENT)
    forge(sites["south"], **changes)

    with pytest.raises(RejectedError) as error:
        documents.collect(sites["north"], "south", "counts")

    assert error.value.rule == rule
    assert "document counts of site 'south'" in str(error.value)


@pytest.mark.parametrize("levels", [0, *range(970, 1000)])
def test_numbers_and_levels_that_json_cannot_write_are_refused(sites, levels):
    """1e999 reads as infinity; some levels can be read, but not written or shown."""
    site, path = sites["south"], published(sites["south"])
    documents.publish(site, "counts", {"x": 1})
    value = b"[" * levels + b"1e999" + b"]" * levels
    line = path.read_bytes().splitlines()[0].replace(b'{"x":1}', b'{"x":' + value + b"}") + b"\n"
    path.write_bytes(line + identity.sign(identity.load_site_key(site.private_key), line))

    with pytest.raises(RejectedError) as error:
        documents.collect(sites["north"], "south", "counts")

    assert error.value.rule == "document"


@pytest.mark.parametrize("levels", [10, 5000])
def test_any_number_of_levels_can_be_quoted(levels):
    """A message about a stranger's list never fails itself."""
    value: list = []
    for _ in range(levels):
        value = [value]

    assert 0 < len(quoted(value)) <= 202


@pytest.mark.parametrize("text", [b'{"a": NaN}\n', b"[" * 100_000 + b"\n", b"\xff\n", b"\n", b'{"a":1}\n'])
def test_signed_nonsense_is_refused(sites, text):
    """The signature is good, what it is over is not a document."""
    site = sites["south"]
    published(site).parent.mkdir(parents=True)
    published(site).write_bytes(text + identity.sign(identity.load_site_key(site.private_key), text))

    with pytest.raises(RejectedError) as error:
        documents.collect(sites["north"], "south", "counts")

    assert error.value.rule == "document"


def test_another_spelling_is_refused(sites):
    """One document has one form, to the byte."""
    site = sites["south"]
    documents.publish(site, "counts", CONTENT)
    line = published(site).read_bytes().splitlines(keepends=True)[0].replace(b'":', b'": ')
    published(site).write_bytes(line + identity.sign(identity.load_site_key(site.private_key), line))

    with pytest.raises(RejectedError, match="canonical"):
        documents.collect(sites["north"], "south", "counts")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_a_changed_byte_changes_nothing_unnoticed(sites, position, flip):
    """One flipped byte anywhere: refused, or (in the armor's line ends) the very same content."""
    path = published(sites["south"])
    if not path.exists():
        documents.publish(sites["south"], "counts", CONTENT)
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= flip

    try:
        document = documents.parse(bytes(data), sites["north"], "south", "counts")
    except RejectedError:
        return
    assert document.content == CONTENT


def test_another_sites_signature_is_refused(sites):
    """A site speaks for itself only."""
    documents.publish(sites["north"], "counts", CONTENT)
    published(sites["south"]).parent.mkdir(parents=True)
    published(sites["south"]).write_bytes(published(sites["north"]).read_bytes())

    with pytest.raises(RejectedError) as error:
        documents.collect(sites["north"], "south", "counts")

    assert error.value.rule == "signature"


def test_too_large_is_refused_on_both_sides(sites):
    """More than 4 MiB is neither published nor read."""
    with pytest.raises(ConfigError, match="4194304"):
        documents.publish(sites["south"], "counts", {"text": "x" * documents.MAX_BYTES})
    published(sites["south"]).parent.mkdir(parents=True, exist_ok=True)
    published(sites["south"]).write_bytes(b"x" * (documents.MAX_BYTES + 5000))

    with pytest.raises(RejectedError) as error:
        documents.collect(sites["north"], "south", "counts")

    assert error.value.rule == "size"


def test_an_offer_leaves_documents_alone(sites):
    """Old offers go from the outbox, documents stay."""
    documents.publish(sites["south"], "counts", CONTENT)
    mailbox = Mailbox(sites["south"])

    for _ in range(4):
        offer(mailbox)

    mailbox.close()
    assert documents.collect(sites["north"], "south", "counts").content == CONTENT


def relayed(tmp_path: Path, sites: dict[str, Site]) -> Site:
    """South with a relay."""
    (tmp_path / "relay").mkdir()
    return replace(sites["south"], relay="folder:relay")


def test_a_document_is_on_the_relay_at_once(tmp_path, sites):
    """It is read there as well as in the outbox."""
    south = relayed(tmp_path, sites)

    documents.publish(south, "counts", CONTENT)

    assert (tmp_path / "relay" / "counts.document").read_bytes() == published(south).read_bytes()


def test_a_relay_that_was_away_gets_the_newest_document_later(tmp_path, sites):
    """The next copy of the outbox brings what could not be brought, once."""
    south = relayed(tmp_path, sites)
    documents.publish(south, "counts", {"cases": 1})
    (tmp_path / "relay").rename(tmp_path / "away")
    with pytest.raises(TransportError):
        documents.publish(south, "counts", {"cases": 2})
    (tmp_path / "away").rename(tmp_path / "relay")
    mailbox = Mailbox(south)

    copies = [mailbox.publish(FolderTransport(tmp_path / "relay")) for _ in range(2)]

    mailbox.close()
    assert [copy.files for copy in copies] == [1, 0]
    assert (tmp_path / "relay" / "counts.document").read_bytes() == published(south).read_bytes()


def test_a_document_travels_over_sftp(tmp_path):
    """Through the embedded server, which runs for as long as it is needed."""
    sites = build_sites(tmp_path, served=True)
    document = documents.publish(sites["south"], "about", CONTENT)

    with documents.served(sites["south"]):
        assert documents.collect(sites["north"], "south", "about") == document

    with pytest.raises(TransportError):
        documents.collect(sites["north"], "south", "about")


def test_a_site_that_serves_already_needs_no_second_server(tmp_path):
    """Whoever comes second leaves it to the first."""
    sites = build_sites(tmp_path, served=True)
    document = documents.publish(sites["south"], "about", CONTENT)

    with documents.served(sites["south"]):
        with documents.served(sites["south"]):
            pass
        assert documents.collect(sites["north"], "south", "about") == document
