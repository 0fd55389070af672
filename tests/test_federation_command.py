"""`nnunet-gml federation`: from cards to one file at every site."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nnunet_gml.cli import main
from nnunet_gml.commands import federation_table
from peer_sync.card import read_card_file, write_card
from peer_sync.federation import Member, load_federation
from peer_sync.identity import fingerprint, generate_key, load_site_key

DIGEST = "ab12" * 16


def write(folder: Path, name: str, **facts: object) -> Path:
    """The card of a new site, with keys of its own."""
    folder.mkdir(exist_ok=True)
    key, host = generate_key(folder / name), generate_key(folder / f"{name}_host")
    member = Member(name, key, f"sftp://{name}.example:2222", host, **facts)
    path = folder / f"{name}.card"
    path.write_text(write_card(member, load_site_key(folder / name)))
    return path


@pytest.fixture
def cards(tmp_path) -> dict[str, str]:
    """Three sites; east contours one organ only."""
    facts = {"north": {"contact": "Physics, north"}, "south": {}, "east": {"labelled": ("Brainstem",)}}
    return {name: str(write(tmp_path / name, name, **more)) for name, more in facts.items()}


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "federation.toml")


@pytest.fixture
def founded(path, cards, capsys) -> str:
    """North and south."""
    assert (
        main(["federation", "new", "head-neck", cards["north"], cards["south"], "--seed", "7", "--out", path])
        == 0
    )
    return capsys.readouterr().out


def shown(path: str, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    federation_table.show(console, load_federation(path))
    return console.file.getvalue()


def test_new_founds_a_federation(path, founded):
    """The file, and on the screen the digest in groups."""
    federation = load_federation(path)

    assert (federation.name, federation.version, federation.seed) == ("head-neck", 1, 7)
    assert "federation head-neck, version 1: 2 sites (north, south)" in founded
    assert federation.digest in "".join(founded.split())


def test_two_cards_of_one_site_are_refused(tmp_path, path, cards, capsys):
    """One saved twice, and a site whose key was copied from another: both files are named."""
    north = read_card_file(Path(cards["north"]))
    copied = tmp_path / "copied.card"
    copied.write_text(
        write_card(
            replace(north, name="west", address="sftp://west.example:2222"),
            load_site_key(tmp_path / "north" / "north"),
        )
    )

    for other, words in ((cards["north"], "name and public_key and address"), (str(copied), "public_key")):
        assert main(["federation", "new", "head-neck", cards["north"], other, "--out", path]) == 2
        said = capsys.readouterr().err
        assert f"two cards have the same {words}: {cards['north']} and {other}" in said
        assert "saved twice" in said and not Path(path).exists()


def test_new_draws_a_seed_where_none_is_given(tmp_path, cards):
    """Two federations shall not start alike by accident."""
    seeds = set()
    for number in range(2):
        out = str(tmp_path / f"{number}.toml")
        main(["federation", "new", "x", cards["north"], cards["south"], "--out", out])
        seeds.add(load_federation(out).seed)

    assert len(seeds) == 2


def test_add_agree_and_remove_raise_the_version(path, founded, cards, capsys):
    """One step each; the result is what the courier reads."""
    assert main(["federation", "add", path, cards["east"]]) == 0
    assert (
        main(["federation", "agree", path, "--plans-digest", DIGEST, "--classes", "Brainstem", "Cord"]) == 0
    )
    assert main(["federation", "remove", path, "south"]) == 0

    federation = load_federation(path)
    assert (federation.version, federation.plans_digest) == (4, DIGEST)
    assert federation.classes == ("Brainstem", "Cord")
    assert [member.name for member in federation.members] == ["north", "east"]
    assert "send" in capsys.readouterr().err


def test_what_stood_there_already_is_not_sent_round(path, founded, cards, capsys):
    """The version is the old one: nobody has to do anything."""
    assert main(["federation", "add", path, cards["south"]]) == 0

    said = capsys.readouterr()
    assert "version 1" in said.out
    assert "stood in" in said.err and "send" not in said.err


def test_a_new_key_needs_the_word_replace(path, founded, tmp_path, capsys):
    """A swapped key is an error with the field's name, until somebody has asked by telephone."""
    card = str(write(tmp_path / "again", "south"))

    assert main(["federation", "add", path, card]) == 2
    said = capsys.readouterr().err
    assert "site 'south' already" in said and "public_key was" in said and "--replace" in said

    assert main(["federation", "add", path, card, "--replace"]) == 0
    assert load_federation(path).version == 2


def test_a_changed_card_founds_nothing(tmp_path, path, cards, capsys):
    """The file of the card, the site and the field."""
    card = Path(cards["north"])
    card.write_text(card.read_text().replace("north.example:2222", "nroth.example:2222"))

    assert main(["federation", "new", "x", cards["north"], cards["south"], "--out", path]) == 2

    said = capsys.readouterr().err
    assert (
        "north.card" in said and "changed after it was signed: address is now 'sftp://nroth.example" in said
    )
    assert not Path(path).exists()


def test_show_has_everything_that_is_compared_by_telephone(path, founded, cards, capsys):
    """Sites, addresses, fingerprints as ssh-keygen prints them, classes, contact, version, digest."""
    main(["federation", "add", path, cards["east"]])
    capsys.readouterr()

    assert main(["federation", "show", path]) == 0

    said = capsys.readouterr().out
    federation = load_federation(path)
    assert "federation head-neck, version 2" in said
    for member in federation.members:
        assert member.address in said
        for line in (member.public_key, member.host_key):
            assert fingerprint(line).split()[1] in said
    assert "every class" in said and "Brainstem" in said and "Physics, north" in said
    assert "not agreed on yet" in said
    assert federation.digest in "".join(said.split())
    keys = subprocess.run(
        ["ssh-keygen", "-lf", Path(cards["east"]).with_name("east.pub")], capture_output=True, text=True
    )
    assert keys.stdout.split()[1] in said


@pytest.mark.parametrize("width", [60, 80, 200])
def test_show_fits_the_terminal(path, founded, width):
    """Nothing is cut off, whatever the width."""
    said = shown(path, width)

    assert max(map(len, said.splitlines())) <= width
    assert fingerprint(load_federation(path).members[0].public_key).split()[1] in said


def test_show_takes_no_orders_from_a_file(path, founded):
    """Square brackets are text, not colours."""
    text = Path(path).read_text().replace("Physics, north", "[red]ring[/red] us")
    Path(path).write_text(text)

    assert "[red]ring[/red] us" in shown(path)


def test_show_takes_a_site_file_as_well(path, founded, tmp_path, capsys):
    """At a hospital it is the file whose path one knows."""
    site = tmp_path / "north" / "site.toml"
    site.write_text(
        'site = "north"\nfederation = "../federation.toml"\nprivate_key = "north"\nfolder = "mail"\n'
    )

    assert main(["federation", "show", str(site)]) == 0
    assert "federation head-neck, version 1" in capsys.readouterr().out
