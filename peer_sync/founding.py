"""Makes federation.toml out of cards, and changes it: a change raises the version by one; comments stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.items import AoT, Table

from peer_sync import key_files
from peer_sync.errors import ConfigError, quoted
from peer_sync.federation import MEMBER_KEYS, Federation, Member, load_federation, parse_federation
from peer_sync.storage import write_durably

HEAD = (
    "Who takes part, how to reach them, whose keys count. The same bytes at every site:",
    "nnunet-gml federation show FILE prints the digest to compare by telephone.",
    "Change it with nnunet-gml federation add, remove and agree, at one site, then send it to all.",
)


def found(path: Path, name: str, seed: int, members: Sequence[Member]) -> Federation:
    """Write the first version of a federation file.

    Args:
        path: a file that is not there yet.
        name: what the federation calls itself.
        seed: for initial weights and the draws of peers.
        members: all sites, at least two.

    Raises:
        ConfigError: the file exists or cannot be written, or the sites do not make a federation.
    """
    document = tomlkit.document()
    for line in HEAD:
        document.add(tomlkit.comment(line))
    document["name"], document["version"], document["seed"] = name, 1, seed
    document.add(tomlkit.nl())
    document["sites"] = tomlkit.aot()
    for member in members:
        _sites(document).append(_set(tomlkit.table(), member))
    data = tomlkit.dumps(document).encode()
    federation = parse_federation(data, path.absolute())
    try:
        key_files.write_new(path, data, 0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}",
            hint="a federation file that exists is changed with add, remove and agree",
        ) from error
    return federation


def add(path: Path, members: Sequence[Member], replace: bool = False) -> Federation:
    """Take in sites; a site that is there already with exactly this card stays as it is.

    Args:
        path: the federation file.
        members: from their cards.
        replace: whether a site that is there with another key, address or the like is changed.

    Returns:
        The file as it is now; its version is the old one where nothing had to be changed.

    Raises:
        ConfigError: a site is there with another card, and shall not be replaced; names the fields.
    """
    old = load_federation(path)
    known = {member.name: member for member in old.members}
    for member in members:
        if not replace and known.get(member.name, member) != member:
            raise _is_there(path, known[member.name], member)

    def change(document: TOMLDocument) -> None:
        tables = {str(table["name"]): table for table in _sites(document)}
        for member in members:
            if member.name in tables:
                _set(tables[member.name], member)
            else:
                _sites(document).append(_set(tomlkit.table(), member))

    return old if all(known.get(member.name) == member for member in members) else _changed(old, change)


def remove(path: Path, names: Sequence[str]) -> Federation:
    """Leave out sites: whoever has the new file neither asks nor answers them. Raises `ConfigError`."""
    old = load_federation(path)
    for name in names:
        old.member(name)

    def change(document: TOMLDocument) -> None:
        tables = _sites(document)
        for number in reversed(range(len(tables))):
            if tables[number]["name"] in names:
                del tables[number]

    return _changed(old, change)


def agree(path: Path, plans_digest: str, classes: Sequence[str] | None = None) -> Federation:
    """Write down what all sites have agreed on.

    Args:
        path: the federation file.
        plans_digest: SHA-256 of the shared plans, 64 hex digits.
        classes: names of all classes in the order in which weights travel; None leaves them as they are.

    Returns:
        The file as it is now; its version is the old one where that stood there already.

    Raises:
        ConfigError: not a digest, or a site contours a class that is not among them.
    """
    old = load_federation(path)

    def change(document: TOMLDocument) -> None:
        document["plans_digest"] = plans_digest
        if classes is not None:
            document["classes"] = list(classes)

    same_classes = classes is None or old.classes == tuple(classes)
    return old if same_classes and old.plans_digest == plans_digest else _changed(old, change)


def _changed(old: Federation, change: Callable[[TOMLDocument], None]) -> Federation:
    """The next version of the file, checked as a whole before it replaces the old one."""
    path = old.path.resolve()
    document = tomlkit.parse(path.read_bytes())
    change(document)
    document["version"] = old.version + 1
    data = tomlkit.dumps(document).encode()
    federation = parse_federation(data, old.path)
    if load_federation(old.path).digest != old.digest:
        raise ConfigError(
            f"{old.path} was changed by somebody else meanwhile, and is left as it is",
            hint="look at it with nnunet-gml federation show, then run this again",
        )
    try:
        write_durably(path, data)
    except OSError as error:
        raise ConfigError(
            f"cannot write {old.path}: {error.strerror}", hint="nothing was changed; check rights and space"
        ) from error
    return federation


def _sites(document: TOMLDocument) -> AoT:
    tables = document["sites"]
    if not isinstance(tables, AoT):
        raise ConfigError("sites is written as a list in one line", hint="write [[sites]] tables")
    return tables


def _set(table: Table, member: Member) -> Table:
    """Make a table say what the member says; what is the same keeps its spelling and comments."""
    for key in MEMBER_KEYS:
        value = getattr(member, key)
        wanted = list(value) if isinstance(value, tuple) else value or None
        if wanted is None:
            table.pop(key, None)
        elif key not in table or table[key] != wanted:
            table[key] = wanted
    return table


def _is_there(path: Path, old: Member, new: Member) -> ConfigError:
    pairs = ((key, getattr(old, key), getattr(new, key)) for key in MEMBER_KEYS)
    told = "; ".join(f"{key} was {quoted(was)}, is {quoted(now)}" for key, was, now in pairs if was != now)
    return ConfigError(
        f"{path} has site {new.name!r} already, and the card says otherwise: {told}",
        hint="ask the site by telephone whether it changed that; if so, --replace takes the new card",
    )
