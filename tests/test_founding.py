"""federation.toml is founded from cards and changed version by version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peer_sync import founding
from peer_sync.errors import ConfigError
from peer_sync.federation import Federation, Member, load_federation
from peer_sync.identity import generate_key

DIGEST = "a" * 64


@pytest.fixture
def members(tmp_path) -> dict[str, Member]:
    """Three sites with real keys."""
    made = {}
    for number, name in enumerate(("north", "south", "east")):
        key, host = (generate_key(tmp_path / "keys" / f"{name}{kind}") for kind in ("", "_host"))
        made[name] = Member(name, key, f"sftp://192.0.2.{number}:2222", host, contact=f"physics at {name}")
    return made


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "federation.toml"


@pytest.fixture
def two(path, members) -> Federation:
    """North and south."""
    return founding.found(path, "head-neck", 7, [members["north"], members["south"]])


def refusal(path: Path, change) -> str:
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        change()
    assert path.read_bytes() == before
    assert caught.value.hint
    return str(caught.value)


def test_cards_make_a_federation(path, two, members):
    """Version 1, every field of every card, plans not agreed on; what is on disk is what is returned."""
    assert two.members == (members["north"], members["south"])
    assert (two.name, two.version, two.seed, two.plans_digest) == ("head-neck", 1, 7, "")
    assert load_federation(path) == two
    assert path.read_text().startswith("# Who takes part")


def test_a_federation_is_not_founded_twice(path, two, members):
    """The file that everybody has is never overwritten."""
    assert "File exists" in refusal(path, lambda: founding.found(path, "other", 8, [*members.values()]))


def test_a_federation_needs_two_sites(path, members):
    """And nothing is written without."""
    with pytest.raises(ConfigError, match="at least two"):
        founding.found(path, "head-neck", 7, [members["north"]])
    assert not path.exists()


def test_a_new_site_raises_the_version_and_keeps_comments(path, two, members):
    """The rest of the file stays to the letter."""
    path.write_text(path.read_text().replace("seed = 7", "seed = 7  # drawn by lot") + "# agreed in May\n")

    new = founding.add(path, [members["east"]])

    assert (new.version, new.peers_of("north")) == (2, ("east", "south"))
    assert new.member("east") == members["east"]
    assert "seed = 7  # drawn by lot" in path.read_text() and "# agreed in May" in path.read_text()
    assert load_federation(path) == new


def test_a_file_without_a_version_is_version_1(path, two, members):
    """Written by hand before: the key is added above the tables."""
    path.write_text(path.read_text().replace("version = 1\n", ""))

    assert founding.add(path, [members["east"]]).version == 2


def test_a_card_that_is_there_already_changes_nothing(path, two, members):
    """Run twice by mistake, the file stays as it is."""
    before = path.read_bytes()

    assert founding.add(path, [members["north"]]) == two
    assert path.read_bytes() == before


def test_another_key_for_a_known_site_is_asked_about(path, two, members):
    """A swapped key must not slip in as an update: the fields are named."""
    key = generate_key(path.parent / "keys" / "other")
    swapped = replace(members["south"], public_key=key, address="sftp://192.0.2.9:22")

    said = refusal(path, lambda: founding.add(path, [swapped]))

    assert "has site 'south' already, and the card says otherwise: public_key was" in said
    assert "address was 'sftp://192.0.2.1:2222', is 'sftp://192.0.2.9:22'" in said
    assert "contact" not in said


def test_replacing_changes_the_site_in_its_place(path, two, members):
    """Order and comments stay; what the new card leaves out is gone."""
    path.write_text(path.read_text().replace('name = "north"', 'name = "north"  # the founder'))
    moved = replace(members["north"], address="folder:/mnt/north", host_key="", contact="", labelled=("a",))

    new = founding.add(path, [moved], replace=True)

    assert new.members == (moved, members["south"])
    assert new.version == 2 and 'name = "north"  # the founder' in path.read_text()


def test_removed_sites_are_gone(path, two, members):
    """From the next version on."""
    founding.add(path, [members["east"]])

    new = founding.remove(path, ["south"])

    assert (new.version, [member.name for member in new.members]) == (3, ["north", "east"])
    assert load_federation(path) == new


def test_removing_leaves_a_federation(path, two):
    """One site alone is none, and an unknown name is a typo."""
    assert "expected at least two" in refusal(path, lambda: founding.remove(path, ["south"]))
    assert "no site is called 'west'" in refusal(path, lambda: founding.remove(path, ["west"]))


def test_what_was_agreed_is_written_down(path, two):
    """Digest and classes, once."""
    new = founding.agree(path, DIGEST, ["Brainstem", "Mandible"])

    assert (new.version, new.plans_digest, new.classes) == (2, DIGEST, ("Brainstem", "Mandible"))
    assert founding.agree(path, DIGEST).version == 2
    assert founding.agree(path, DIGEST, ["Mandible", "Brainstem"]).version == 3


def test_what_cannot_be_agreed_on_changes_nothing(path, two, members):
    """No digest, or a site that contours something else."""
    assert "expected 64 hex digits" in refusal(path, lambda: founding.agree(path, "abc"))
    founding.add(path, [replace(members["south"], labelled=("Brainstem",))], replace=True)
    assert "'Brainstem', which is not among classes" in refusal(
        path, lambda: founding.agree(path, DIGEST, ["Brain stem"])
    )


def test_one_key_cannot_be_two_sites(path, two, members):
    """The whole file is checked before it replaces the old one."""
    twin = replace(members["east"], public_key=members["south"].public_key)

    assert "2 sites have the same public_key" in refusal(path, lambda: founding.add(path, [twin]))


def test_a_change_by_somebody_else_meanwhile_is_not_lost(path, two, members, monkeypatch):
    """Two people at one file: the second one is told, and the first one's change stays."""
    dumps = founding.tomlkit.dumps
    first = path.read_bytes().replace(b"seed = 7", b"seed = 8")

    def meanwhile(document):
        path.write_bytes(first)
        return dumps(document)

    monkeypatch.setattr(founding.tomlkit, "dumps", meanwhile)
    with pytest.raises(ConfigError, match="somebody else"):
        founding.add(path, [members["east"]])

    assert path.read_bytes() == first


def test_a_link_stays_a_link(path, two, members, tmp_path):
    """The file that several look at is changed, not the link to it."""
    link = tmp_path / "link.toml"
    link.symlink_to(path)

    founding.add(link, [members["east"]])

    assert link.is_symlink()
    assert load_federation(path).version == 2


def test_sites_in_one_line_are_refused(path, two):
    """TOML that parses but that a change would have to rewrite."""
    rows = ", ".join(
        "{"
        + ", ".join(f'{key} = "{getattr(m, key)}"' for key in ("name", "public_key", "address", "host_key"))
        + "}"
        for m in two.members
    )
    path.write_text(f'name = "x"\nseed = 1\nsites = [{rows}]\n')

    assert "list in one line" in refusal(path, lambda: founding.remove(path, ["south"]))
