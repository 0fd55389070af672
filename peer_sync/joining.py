"""What a new site needs: its keys, its site.toml and its card. What is there already is never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tomlkit

from peer_sync import key_files
from peer_sync.address import FOLDER, HOST_KEY_TYPES, check_name, parse_address
from peer_sync.card import read_card_file, write_card
from peer_sync.errors import ConfigError
from peer_sync.federation import Member
from peer_sync.identity import check_site_key, generate_key, load_site_key
from peer_sync.site import read_listen
from peer_sync.tables import Table, bytes_of, parse_toml

SITE_FILE = "site.toml"
COMMENT_COLUMN = 32


@dataclass(frozen=True)
class Answers:
    """What only a person knows about a new site.

    Attributes:
        name: ``[a-z0-9-]+``.
        address: where the others read its outbox, ``sftp://`` or ``folder:``.
        listen: ``HOST:PORT`` of the built-in server; empty where something else serves the outbox.
        relay: where a copy of the outbox is put, if nobody can dial the site; may be empty.
        host_key: the public line of the server at the address; empty for the built-in server's own.
        labelled: the classes the site contours; None means every class.
        contact: whom to ask, one line.
    """

    name: str
    address: str
    listen: str = ""
    relay: str = ""
    host_key: str = ""
    labelled: tuple[str, ...] | None = None
    contact: str = ""


def settings_in(folder: Path) -> Table:
    """What the site.toml of ``folder`` says; nothing where there is none. Raises `ConfigError`."""
    path = folder / SITE_FILE
    return Table(parse_toml(path)[0] if path.exists() else {}, path.name)


def card_path(folder: Path, name: str) -> Path:
    """Where the card of a site is written. Raises `ConfigError` for what is no site's name."""
    check_name(name, "site")
    return folder / f"{name}.card"


def join(folder: Path, answers: Answers) -> Member:
    """Make keys, site.toml and card, each only if it is not there; site.toml says where the keys are.

    Args:
        folder: is made if it is not there.
        answers: about the new site.

    Returns:
        The site as its card shows it to the others.

    Raises:
        ConfigError: an answer is not allowed, or a file cannot be written.
        TransportError: the key is in ssh-agent, and that did not sign.
    """
    name, host_key = answers.name, answers.host_key
    card, settings = card_path(folder, name), settings_in(folder)
    _check_ways(answers)
    _check_settings(answers, settings)
    key = folder / settings.get("private_key", str, name)
    line = _public_line(key, name)
    if answers.listen:
        host_key = _public_line(folder / settings.get("host_key", str, f"{name}_host"), name)
    member = Member(name, line, answers.address, host_key, answers.labelled, answers.contact)
    text = write_card(member, load_site_key(key, line))
    _write_new(folder / SITE_FILE, _site_text(answers))
    _write_new(card, text)
    return read_card_file(card)


def default_listen(address: str) -> str:
    """Every interface of this machine, at the port that the others dial; empty if that is no SFTP address."""
    try:
        return f"0.0.0.0:{parse_address(address).port}"
    except ValueError:
        return ""


def read_host_key(path: Path) -> str:
    """The public host key in a .pub file or in what ``ssh-keyscan`` prints; ed25519 is preferred.

    Raises:
        ConfigError: there is none.
    """
    lines = [line.split() for line in bytes_of(path).decode("utf-8", errors="replace").splitlines()]
    for kind in HOST_KEY_TYPES:
        for words in lines:
            if kind in words[:2] and words.index(kind) + 1 < len(words):
                return f"{kind} {words[words.index(kind) + 1]}"
    raise ConfigError(
        f"{path} holds no public host key, expected a line like 'ssh-ed25519 AAAA...'",
        hint="the server's /etc/ssh/ssh_host_ed25519_key.pub, or what ssh-keyscan prints",
    )


def _check_ways(answers: Answers) -> None:
    """Refuse a site that nobody could read, or whose server nobody knows."""
    is_folder = answers.address.startswith(FOLDER)
    read_listen(Table({"listen": answers.listen} if answers.listen else {}, "site"))
    if not answers.listen and not is_folder and not answers.host_key:
        raise ConfigError(
            f"address is {answers.address!r}, but no server is named for it",
            hint="name listen for the built-in server, or the host key of the server that is there already",
        )
    if answers.listen and (is_folder or answers.relay or answers.host_key):
        raise ConfigError(
            f"listen is {answers.listen!r}, but the others read the outbox elsewhere: in a folder, at a "
            "relay, or from a server with a host key of its own",
            hint="leave listen out; it is for the built-in server alone",
        )


def _check_settings(answers: Answers, settings: Table) -> None:
    """Refuse answers that contradict the site.toml that is there."""
    for key in ("listen", "relay") if settings.content else ():
        here, there = getattr(answers, key), settings.get(key, str, "")
        if here != there:
            raise ConfigError(
                f"{key} is {here!r}, but {settings.where} has {there!r}",
                hint=f"{settings.where} is never changed here: change {key} there, then run this again",
            )


def _public_line(key: Path, comment: str) -> str:
    """The public line of a key, which is made if it is not there."""
    if not key.exists() and not key.with_name(f"{key.name}.pub").exists():
        generate_key(key, comment)
    return check_site_key(key)[0]


def _write_new(path: Path, text: str) -> None:
    """Write a file unless it is there."""
    if path.exists():
        return
    try:
        key_files.write_new(path, text.encode(), 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="check rights and space") from error


def _site_text(answers: Answers) -> str:
    """site.toml with the settings that a new site may want to look at."""
    lines = [
        "# This installation's own file; paths are relative to it. federation.toml comes from the founder.",
        _line("site", answers.name),
        _line("federation", "federation.toml", "the same bytes at every site"),
        _line("private_key", answers.name, "stays here: logs in to peers and signs"),
        _line("folder", "mail", "outbox, inbox, quarantine and ledger.jsonl"),
        "",
        *_way_lines(answers),
        "",
        "# What the others are told beside the weights, and keep:",
        _line("share_cases", True, "number of cases"),
        _line("share_dice", True, "Dice per class on own validation cases"),
        "",
        "# Left as it is unless the # is taken away:",
        _line("# courier", "agent", "compute nodes have no network: nnunet-gml sync moves the files"),
        _line("# encrypt", True, "whoever runs a relay or a shared disk cannot read weights"),
        _line("# payload", "int8", "slow line: half the bytes of float16"),
        _line("# wait_seconds", 600, "averaging trainers: how long a round's end waits for the others"),
    ]
    return "\n".join(lines) + "\n"


def _way_lines(answers: Answers) -> list[str]:
    if answers.listen:
        return [
            f"# The built-in read-only server; the others dial {answers.address}",
            _line("listen", answers.listen),
            _line("host_key", f"{answers.name}_host", "stays here"),
        ]
    if answers.relay:
        return [
            "# A copy of the outbox is put into this folder, which must be there; the others read it at",
            f"# {answers.address}",
            _line("relay", answers.relay),
        ]
    return [f"# Something else serves mail/outbox; the others read {answers.address}"]


def _line(key: str, value: str | bool | int, comment: str = "") -> str:
    text = f"{key} = {tomlkit.item(value).as_string()}"
    return f"{text:<{COMMENT_COLUMN}}  # {comment}" if comment else text
