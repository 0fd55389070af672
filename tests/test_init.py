"""`nnunet-gml init`: from nothing to a site that can join."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from courier_kit import free_port, offer, running_server

from nnunet_gml.cli import main
from peer_sync.card import read_card, read_card_file
from peer_sync.identity import generate_key
from peer_sync.mailbox import Mailbox
from peer_sync.relay import publish
from peer_sync.routes import way_to, way_to_relay
from peer_sync.server.embedded import Server
from peer_sync.site import SITE_KEYS, load_site

GIVEN = ("--site", "north", "--address", "sftp://gml.north.example:2222")


@pytest.fixture(autouse=True)
def nobody_there(monkeypatch):
    """Standard input is no terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def init(folder: Path, *options: str) -> int:
    return main(["init", str(folder), *options])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_site_is_made_from_options(tmp_path, capsys):
    """Keys for their owner only, site.toml, and the card, which is printed and written."""
    assert init(tmp_path, *GIVEN, "--labelled", "Brainstem", "Cord", "--contact", "Physics,  +49 30 1") == 0

    said = capsys.readouterr().out
    member = read_card(said)
    assert said == (tmp_path / "north.card").read_text()
    assert (member.name, member.address) == ("north", "sftp://gml.north.example:2222")
    assert (member.labelled, member.contact) == (("Brainstem", "Cord"), "Physics, +49 30 1")
    for key, line in (("north", member.public_key), ("north_host", member.host_key)):
        assert (tmp_path / f"{key}.pub").read_text().startswith(line)
        assert (tmp_path / key).stat().st_mode & 0o77 == 0


def test_every_setting_of_the_site_file_is_known(tmp_path):
    """Those in comments, too: a site may uncomment any of them."""
    init(tmp_path, *GIVEN)
    text = (tmp_path / "site.toml").read_text()

    settings = tomllib.loads(text)
    hidden = tomllib.loads(
        "\n".join(line[2:] for line in text.splitlines() if line.startswith("# ") and "=" in line)
    )
    assert settings.keys() | hidden.keys() <= set(SITE_KEYS) and len(hidden) == 4
    assert (settings["listen"], settings["private_key"]) == ("0.0.0.0:2222", "north")


COPIES = {
    "built-in server": (*GIVEN,),
    "own sshd": (
        *("--site", "north", "--address", "sftp://gml@gml.north.example:22/outbox"),
        *("--relay", "folder:/srv/gml/outbox", "--host-key", "HOST_KEY"),
    ),
}


@pytest.mark.parametrize("way", COPIES)
def test_comments_stand_in_one_column(tmp_path, way):
    """Behind two spaces at least, whatever the length of a value."""
    key = tmp_path / "host.pub"
    key.write_text(generate_key(tmp_path / "host_key") + "\n")
    init(tmp_path / "site", *(str(key) if word == "HOST_KEY" else word for word in COPIES[way]))

    lines = (tmp_path / "site" / "site.toml").read_text().splitlines()
    behind = [line.rindex("  # ") for line in lines if "  # " in line]
    assert len(behind) >= 9 and len(set(behind)) == 1


def test_running_again_changes_nothing(tmp_path, capsys):
    """With the same options, or none: the card is printed again."""
    init(tmp_path, *GIVEN)
    before, said = content(tmp_path), capsys.readouterr().out

    assert init(tmp_path, *GIVEN) == 0
    assert capsys.readouterr().out == said
    assert init(tmp_path) == 0
    assert capsys.readouterr().out == said
    assert content(tmp_path) == before


def test_other_options_than_the_cards_are_refused(tmp_path, capsys):
    """An address that was changed silently would be read by nobody."""
    init(tmp_path, *GIVEN)
    before = content(tmp_path)

    assert init(tmp_path, "--address", "sftp://gml.north.example:2223") == 2
    said = capsys.readouterr().err
    assert "--address is 'sftp://gml.north.example:2223', but" in said and "federation add --replace" in said
    assert init(tmp_path, "--site", "south") == 2
    assert "is that of site 'north'" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_a_new_card_keeps_keys_and_site_file(tmp_path):
    """After a move: a site that loses its key is another site."""
    init(tmp_path, *GIVEN)
    before = content(tmp_path)
    (tmp_path / "north.card").unlink()

    assert init(tmp_path, "--address", "sftp://new.north.example:2222") == 0

    after = content(tmp_path)
    assert read_card_file(tmp_path / "north.card").address == "sftp://new.north.example:2222"
    assert {key: value for key, value in after.items() if not key.endswith("card")} == {
        key: value for key, value in before.items() if not key.endswith("card")
    }


def test_a_key_of_ssh_keygen_is_taken(tmp_path):
    """One that is there already under the site's name."""
    line = generate_key(tmp_path / "north")

    init(tmp_path, *GIVEN)

    assert line.startswith(read_card_file(tmp_path / "north.card").public_key)


def test_a_site_file_that_is_there_says_where_the_keys_are(tmp_path):
    """Written by hand before there were cards: its own keys stand in the card, and no others are made."""
    lines = {name: generate_key(tmp_path / "keys" / name) for name in ("own", "host")}
    text = 'site = "north"\nfederation = "federation.toml"\nprivate_key = "keys/own"\nfolder = "mail"\n'
    text += 'listen = "0.0.0.0:2222"\nhost_key = "keys/host"\n'
    (tmp_path / "site.toml").write_text(text)

    assert init(tmp_path, "--address", "sftp://gml.north.example:2222") == 0

    member = read_card_file(tmp_path / "north.card")
    assert (member.public_key, member.host_key) == (lines["own"], lines["host"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "north.card", "site.toml"]
    assert (tmp_path / "site.toml").read_text() == text


def test_a_site_file_that_is_there_is_not_contradicted(tmp_path, capsys):
    """Another port than the one it has, or a server where it has none: nothing is made."""
    init(tmp_path, *GIVEN)
    (tmp_path / "north.card").unlink()
    before = content(tmp_path)

    assert init(tmp_path, *GIVEN, "--listen", "0.0.0.0:2223") == 2
    assert "listen is '0.0.0.0:2223', but site.toml has '0.0.0.0:2222'" in capsys.readouterr().err
    assert init(tmp_path, "--relay", "folder:/mnt/north") == 2
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), "--site is missing"),
        (("--site", "north"), "--address is missing"),
        (("--site", "../north", "--address", "folder:/x"), "characters that are not allowed"),
        (("--site", "north", "--address", "north.example:22"), "expected sftp://"),
        (("--site", "north", "--address", "sftp:/north.example:22"), "expected sftp://"),
        (("--site", "north", "--address", "sftp://north.example:222222"), "Port out of range"),
        (("--site", "north", "--address", "sftp://north example:22"), "is no name of a machine"),
        (("--site", "north", "--address", "sftp://0.0.0.0:2222"), "that is for --listen"),
        (("--site", "north", "--address", "ftp://north", "--listen", "0.0.0.0:1"), "expected sftp://"),
        ((*GIVEN, "--listen", "2222"), "expected HOST:PORT"),
        ((*GIVEN, "--contact", "a" * 201), "at most 200"),
        (("--site", "north", "--relay", "sftp://relay.example:22/north"), "--host-key is missing"),
        (
            ("--site", "north", "--relay", "sftp://relay.example:22/north"),
            "ssh-keyscan -t ed25519 -p 22 relay",
        ),
        ((*GIVEN, "--relay", "folder:/srv/gml/outbox"), "--host-key is missing"),
        (("--site", "north", "--address", "folder:north"), "from the folder of their federation.toml"),
        ((*GIVEN, "--host-key", "nowhere.pub"), "cannot read nowhere.pub"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, capsys, options, found):
    """The option, and what was expected; no site.toml and no card are written."""
    assert init(tmp_path, *options) == 2

    said = capsys.readouterr().err
    assert found in said and "hint:" in said
    assert not (tmp_path / "site.toml").exists() and not list(tmp_path.glob("*.card"))


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.168.1.5", "192.168.1.5 is a private address"),
        ("127.0.0.1", "127.0.0.1 is this machine itself"),
        ("localhost", "localhost is this machine itself"),
        ("gml.north.example", ""),
    ],
)
def test_an_address_that_few_can_dial_is_told(tmp_path, capsys, host, words):
    """A laptop behind NAT hears of the relay before the card goes out."""
    assert init(tmp_path, "--site", "north", "--address", f"sftp://{host}:2222") == 0

    said = capsys.readouterr().err
    assert words in said and ("--relay puts a copy" in said) == bool(words)


def test_a_server_that_is_there_already_keeps_its_host_key(tmp_path, capsys):
    """Its .pub file, or what ssh-keyscan prints; no server of ours is set up."""
    line = generate_key(tmp_path / "sshd")
    (tmp_path / "scan").write_text(
        f"# north.example:22 SSH-2.0\nnorth.example ssh-rsa AAAA\nnorth.example {line}\n"
    )

    for name, file in (("one", "sshd.pub"), ("two", "scan")):
        assert init(tmp_path / name, *GIVEN, "--host-key", str(tmp_path / file)) == 0
        assert read_card_file(tmp_path / name / "north.card").host_key == line.strip()
        assert "listen" not in tomllib.loads((tmp_path / name / "site.toml").read_text())
        assert not (tmp_path / name / "north_host").exists()
    (tmp_path / "scan").write_text("nothing")
    assert init(tmp_path / "three", *GIVEN, "--host-key", str(tmp_path / "scan")) == 2
    assert "holds no public host key" in capsys.readouterr().err


def test_a_terminal_is_asked(tmp_path):
    """Questions on a real terminal; what is only Enter takes the default in brackets."""
    ours, theirs = pty.openpty()
    answers = ["north", "sftp://gml.north.example:2222", "127.0.0.1:40221", "Brainstem, Cord", "Physics"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nnunet_gml.cli", "init", str(tmp_path)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, ("\n".join(answers) + "\n").encode())
    out, err = process.communicate(timeout=200)
    os.close(ours), os.close(theirs)

    member = read_card(out)
    assert (member.labelled, member.contact) == (("Brainstem", "Cord"), "Physics")
    assert tomllib.loads((tmp_path / "site.toml").read_text())["listen"] == "127.0.0.1:40221"
    assert "[0.0.0.0:2222]" in err and "[all]" in err


def test_two_new_sites_meet_over_their_own_servers(tmp_path):
    """init at both, one file from two cards: then south reads what north offers, over SFTP."""
    for name in ("north", "south"):
        port = free_port()
        init(
            tmp_path / name,
            "--site",
            name,
            "--address",
            f"sftp://127.0.0.1:{port}",
            "--listen",
            f"127.0.0.1:{port}",
        )
    found(tmp_path)
    sites = {name: load_site(tmp_path / name / "site.toml") for name in ("north", "south")}

    assert main(["federation", "check", *(str(site.path) for site in sites.values())]) == 0
    with closing(Mailbox(sites["north"])) as box, running_server(Server(sites["north"])):
        manifest = offer(box)
        with closing(way_to(sites["south"], "north")) as way:
            assert manifest.payload in way.names()


def test_two_new_sites_meet_in_a_folder_that_both_see(tmp_path):
    """Each keeps its outbox at home and puts a copy there."""
    shared = tmp_path / "shared"
    for name in ("north", "south"):
        (shared / name).mkdir(parents=True)
        init(tmp_path / name, "--site", name, "--address", f"folder:{shared / name}")
    found(tmp_path)
    sites = {name: load_site(tmp_path / name / "site.toml") for name in ("north", "south")}

    with closing(Mailbox(sites["north"])) as box:
        manifest = offer(box)
        publish(box.outbox, way_to_relay(sites["north"]))

    assert manifest.payload in way_to(sites["south"], "north").names()


def test_a_relay_is_the_address(tmp_path):
    """Nobody can dial the site: the others read the copy, from a server with a pinned key."""
    line = generate_key(tmp_path / "relay")
    init(
        tmp_path / "north",
        *("--site", "north", "--relay", "sftp://north@relay.example:22/outboxes/north"),
        *("--host-key", str(tmp_path / "relay.pub")),
    )

    member = read_card_file(tmp_path / "north" / "north.card")
    settings = tomllib.loads((tmp_path / "north" / "site.toml").read_text())
    assert (member.address, member.host_key) == (settings["relay"], line.strip())


def found(folder: Path) -> None:
    """One federation of the two cards, at both sites."""
    cards = [str(folder / name / f"{name}.card") for name in ("north", "south")]
    main(["federation", "new", "demo", *cards, "--seed", "7", "--out", str(folder / "federation.toml")])
    for name in ("north", "south"):
        (folder / name / "federation.toml").write_bytes((folder / "federation.toml").read_bytes())
