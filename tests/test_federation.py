"""federation.toml."""

import hashlib
from pathlib import Path

import pytest
from courier_kit import PLANS, federation_text, member_text

from peer_sync.errors import ConfigError
from peer_sync.federation import DEFAULT_MAX_PAYLOAD_BYTES, load_federation
from peer_sync.identity import generate_key


@pytest.fixture
def members(tmp_path) -> list[str]:
    """Two [[sites]] tables: south on SFTP, north in a folder."""
    south, north, host = (generate_key(tmp_path / name) for name in ("south", "north", "host"))
    return [
        member_text("south", south, "sftp://192.0.2.7:40221", host_key=host),
        member_text("north", north, "folder:mail/outbox") + '\nlabelled = ["brainstem"]',
    ]


def load(folder: Path, text: str):
    path = folder / "federation.toml"
    path.write_text(text)
    return load_federation(path)


def refusal(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert caught.value.hint
    return caught.value


def test_a_good_file_is_read_whole(tmp_path, members):
    """Every field arrives, what is left out has its default."""
    federation = load(tmp_path, federation_text(members))

    assert (federation.name, federation.seed, federation.plans_digest) == ("demo", 7, PLANS)
    assert federation.max_payload_bytes == DEFAULT_MAX_PAYLOAD_BYTES
    assert federation.member("north").labelled == ("brainstem",)
    assert federation.member("south").labelled is None


def test_what_a_young_federation_leaves_out_has_a_default(tmp_path, members):
    """The first version, plans not agreed on, nobody to ask."""
    federation = load(tmp_path, federation_text(members, plans_digest=None))

    assert (federation.version, federation.plans_digest) == (1, "")
    assert federation.member("north").contact == ""


def test_version_and_contact_are_read(tmp_path, members):
    """Who has the newer file, and whom to ask."""
    asked = members[1] + '\ncontact = "Physics, +49 30 1234"'
    federation = load(tmp_path, federation_text([members[0], asked], version=4))

    assert federation.version == 4
    assert federation.member("north").contact == "Physics, +49 30 1234"


def test_classes_are_read_in_the_files_order(tmp_path, members):
    """Weights travel in it; left out, every site numbers its labels alike."""
    named = load(tmp_path, federation_text(members, classes='["parotid", "brainstem"]'))

    assert named.classes == ("parotid", "brainstem")
    assert load(tmp_path, federation_text(members)).classes is None


def test_a_labelled_class_that_is_not_among_classes_is_refused(tmp_path, members):
    """A misspelt organ, told before any training, with the nearest known one."""
    error = refusal(tmp_path, federation_text(members, classes='["parotid", "brain-stem"]'))

    assert "site 'north': labelled names 'brainstem'" in str(error)
    assert "nearest class is 'brain-stem'" in str(error)


def test_a_missing_file_is_said_to_come_from_the_founder(tmp_path):
    """The first thing that a new site lacks."""
    with pytest.raises(ConfigError, match="cannot read") as caught:
        load_federation(tmp_path / "federation.toml")

    assert "nnunet-gml federation new" in caught.value.hint


def test_digest_is_the_sha256_of_the_bytes(tmp_path, members):
    """Two sites compare their files by this digest."""
    federation = load(tmp_path, federation_text(members))

    assert federation.digest == hashlib.sha256((tmp_path / "federation.toml").read_bytes()).hexdigest()


def test_peers_are_sorted_and_without_the_site(tmp_path, members):
    """The order of the file does not change the schedule."""
    federation = load(tmp_path, federation_text(members))

    assert federation.peers_of("south") == ("north",)


def test_an_unknown_site_is_named_with_the_known_ones(tmp_path, members):
    """A typing error shows which names there are."""
    federation = load(tmp_path, federation_text(members))

    with pytest.raises(ConfigError, match="'east'") as caught:
        federation.peers_of("east")
    assert "south, north" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"sed": 7}, "unknown key 'sed'; the nearest known key is 'seed'"),
        ({"plan_digest": '""'}, "nearest known key is 'plans_digest'"),
        ({"seed": None}, "key 'seed' is missing"),
        ({"seed": '"7"'}, "seed is '7', expected a whole number"),
        ({"seed": "true"}, "seed is True, expected a whole number"),
        ({"plans_digest": '"abc"'}, "expected 64 hex digits"),
        ({"version": 0}, "version is 0, expected 1 to"),
        ({"version": 10**7}, "version is 10000000, expected 1 to"),
        ({"version": '"2"'}, "version is '2', expected a whole number"),
        ({"max_payload_bytes": 0}, "max_payload_bytes is 0"),
        ({"classes": "[]"}, "classes is an empty list"),
        ({"classes": '"brainstem"'}, "classes is 'brainstem', expected a list"),
        ({"classes": '["a", "a"]'}, "classes is ['a', 'a'], expected a list of different names"),
        ({"classes": '["a", ""]'}, "expected a list of different names"),
        ({"classes": r'["a\u001b[2J"]'}, "expected a list of different names"),
        ({"name": r'"a\u001b[2J"'}, "name is 'a\\x1b[2J', expected one line"),
        ({"name": f'"{"a" * 201}"'}, "expected one line of at most 200"),
        ({"class": '["a"]'}, "nearest known key is 'classes'"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, members, changes, found):
    """Unknown, missing, mistyped: the message says which key and what was expected."""
    assert found in str(refusal(tmp_path, federation_text(members, **changes)))


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('name = "north"', 'name = "North!"', "characters that are not allowed"),
        ('name = "north"', 'name = "south"', "2 sites have the same name 'south'"),
        ("labelled", "labeled", "nearest known key is 'labelled'"),
        ('["brainstem"]', '["brainstem", "brainstem"]', "list of different names"),
        ("labelled", r'contact = "a\nb" #', "contact is 'a\\nb', expected one line of at most 200"),
        ("labelled", f'contact = "{"a" * 201}" #', "expected one line of at most 200"),
        ("folder:mail/outbox", r"folder:mail\u001b[2J", "expected sftp://"),
        ("folder:mail/outbox", "ftp://192.0.2.7", "expected sftp://"),
        ("sftp://192.0.2.7:40221", "sftp://u:secret@192.0.2.7:22", "expected sftp://"),
        ("sftp://192.0.2.7:40221", "sftp://192.0.2.7:99999", "expected sftp://"),
        ("host_key", "labelled = [] #", "host_key is ''"),
        ("labelled", r'host_key = "\u001b[2J" #', "host_key is '\\x1b[2J', expected"),
        ("labelled", 'host_key = "ssh-rsa !!" #', "host_key is 'ssh-rsa !!', expected"),
        ('public_key = "ssh-ed25519', 'public_key = "ssh-rsa', "expected 'ssh-ed25519"),
        ('public_key = "ssh-ed25519 AAAA', 'public_key = "ssh-ed25519 BBBB', "expected 'ssh-ed25519"),
    ],
)
def test_a_wrong_site_is_named(tmp_path, members, old, new, found):
    """Each site's table is checked, and the message says which site."""
    error = refusal(tmp_path, federation_text(members).replace(old, new))

    assert found in str(error)
    assert "site" in str(error)


def test_one_key_for_two_sites_is_refused(tmp_path):
    """A key names one site: otherwise one could sign for the other."""
    key = generate_key(tmp_path / "key")
    members = [member_text(name, key, f"folder:{name}") for name in ("south", "north")]

    assert "2 sites have the same public_key" in str(refusal(tmp_path, federation_text(members)))


def test_one_site_is_no_federation(tmp_path, members):
    """There has to be somebody to exchange with."""
    assert "expected at least two" in str(refusal(tmp_path, federation_text(members[:1])))


def test_text_that_is_not_toml_is_refused(tmp_path):
    """The message keeps the parser's line and column."""
    assert "not valid TOML" in str(refusal(tmp_path, "name = "))


def test_a_missing_file_is_named(tmp_path):
    """The path stands in the message."""
    with pytest.raises(ConfigError, match=r"cannot read .*federation\.toml"):
        load_federation(tmp_path / "federation.toml")
