"""Make this site ready to join: its keys, its site.toml, and the card that the others need.

Asks for what is missing. Nothing that is there is ever changed: run again, it prints the card again. Send the
card to whoever founds the federation, and read out the fingerprints over the telephone.

Others reach the outbox in one of these ways: they dial the built-in server (--address, and --listen where
that differs), or a server that is there already (--address, --host-key), or they read a copy (--relay,
--host-key), or a folder that all can see (--address folder:PATH).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from peer_sync.errors import ConfigError

if TYPE_CHECKING:
    from peer_sync.federation import Member
    from peer_sync.joining import Answers
    from peer_sync.tables import Table

ADDRESS_EXAMPLE = "sftp://gml.north.example:2222, or folder:/mnt/shared/north"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml init``."""
    add = parser.add_argument
    add("folder", nargs="?", type=Path, default=Path(), help="where everything is put (default: here)")
    add("--site", metavar="NAME", help="small letters, digits and hyphens")
    add("--address", help=f"where the others read the outbox: {ADDRESS_EXAMPLE} (default: the relay)")
    add("--listen", metavar="HOST:PORT", help="of the built-in server (default: the address's port)")
    add("--relay", metavar="ADDRESS", help="where a copy of the outbox is put, if nobody can dial in")
    add(
        "--host-key",
        type=Path,
        metavar="FILE",
        help="public host key of another server at the address: its .pub file, or what ssh-keyscan prints",
    )
    add("--labelled", nargs="+", metavar="CLASS", help="the classes contoured here (default: all)")
    add("--contact", help="whom to ask: one line, such as name, mail, telephone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make what is missing and print the card."""
    from peer_sync import joining
    from peer_sync.card import read_card_file

    settings = joining.settings_in(args.folder)
    name = _name(args, settings.get("site", str, ""))
    path = joining.card_path(args.folder, name)
    if path.exists():
        member = read_card_file(path)
        _check_same(path, member, args)
    else:
        member = joining.join(args.folder, _answers(args, name, settings))
    print(path.read_text(encoding="utf-8"), end="")
    _tell(path, member)
    return 0


def _name(args: argparse.Namespace, known: str) -> str:
    """The site's name, from site.toml if that is there."""
    if args.site and known and args.site != known:
        raise ConfigError(
            f"--site is {args.site!r}, but {args.folder / 'site.toml'} is that of site {known!r}",
            hint="give each site a folder of its own",
        )
    return known or args.site or _ask("--site", "name of this site (small letters, digits, hyphens)", "north")


def _answers(args: argparse.Namespace, name: str, settings: Table) -> Answers:
    """Everything else, from site.toml if that is there, and asked for where it is missing."""
    from peer_sync import joining

    address, listen, relay = _way(args, settings)
    host_key = joining.read_host_key(args.host_key) if args.host_key else ""
    return joining.Answers(name, address, listen, relay, host_key, _labelled(args), _contact(args))


def _way(args: argparse.Namespace, settings: Table) -> tuple[str, str, str]:
    """Address, built-in server and relay; the last two may be empty."""
    from nnunet_gml.commands import addresses
    from peer_sync import joining
    from peer_sync.address import FOLDER

    relay = args.relay or settings.get("relay", str, "")
    address = args.address or relay
    if not address:
        address = _ask("--address", "where the others read the outbox", ADDRESS_EXAMPLE)
    for option, given in (("--relay", relay), ("--address", address)):
        if given:
            addresses.check(option, given)
    if relay and not (args.host_key or settings.content or address.startswith(FOLDER)):
        raise addresses.host_key_missing(address)
    relay = relay or _relay_of(address, FOLDER)
    listen = args.listen or settings.get("listen", str, "")
    if not (listen or relay or args.host_key or settings.content):
        listen = joining.default_listen(address)
        listen = _offer("the built-in server listens on", listen) if sys.stdin.isatty() else listen
    return address, listen, relay


def _labelled(args: argparse.Namespace) -> tuple[str, ...] | None:
    if args.labelled is None and sys.stdin.isatty():
        words = _offer("classes contoured here, separated by commas", "all")
        return None if words == "all" else tuple(word.strip() for word in words.split(","))
    return None if args.labelled is None else tuple(args.labelled)


def _contact(args: argparse.Namespace) -> str:
    if args.contact is None and sys.stdin.isatty():
        return _one_line(_offer("whom to ask: name, mail, telephone", ""))
    return _one_line(args.contact or "")


def _relay_of(address: str, scheme: str) -> str:
    """A folder that all can see gets a copy of the outbox, as a relay does."""
    if not address.startswith(scheme):
        return ""
    if not Path(address.removeprefix(scheme)).is_absolute():
        raise ConfigError(
            f"--address is {address!r}, which the others read from the folder of their federation.toml",
            hint="--relay folder:/FULL/PATH says where that folder is here",
        )
    return address


def _ask(option: str, question: str, example: str) -> str:
    """An answer that must be given. Raises `ConfigError` if nobody is there."""
    if sys.stdin.isatty():
        answer = _offer(f"{question}, for example {example}", "")
        if answer:
            return answer
    raise ConfigError(
        f"{option} is missing: {question}", hint=f"for example {option} {example.split(',')[0]}"
    )


def _offer(question: str, default: str) -> str:
    """An answer, or the default."""
    print(f"{question} [{default}]: " if default else f"{question}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or default


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _check_same(path: Path, member: Member, args: argparse.Namespace) -> None:
    """Refuse options that contradict the card that is there."""
    given = {
        "address": args.address or args.relay,
        "labelled": None if args.labelled is None else tuple(args.labelled),
        "contact": None if args.contact is None else _one_line(args.contact),
    }
    for key, value in given.items():
        if value is not None and value != getattr(member, key):
            raise ConfigError(
                f"--{key} is {value!r}, but {path} has {getattr(member, key)!r} already; nothing was changed",
                hint=f"for a new card move {path} away, run this again with all options, and look at "
                "site.toml; the others take it with nnunet-gml federation add --replace",
            )


def _tell(path: Path, member: Member) -> None:
    from nnunet_gml.commands import addresses
    from peer_sync.identity import fingerprint

    folder = path.parent
    if doubt := addresses.doubt(member.address):
        print(f"nnunet-gml: attention: {doubt}", file=sys.stderr)
    print(
        f"nnunet-gml: {folder / member.name} and all other keys stay here; send {path} to whoever founds the "
        f"federation, and read out {fingerprint(member.public_key)}\n"
        f"nnunet-gml: put the federation.toml that comes back beside {folder / 'site.toml'}, then: "
        f"nnunet-gml federation show {folder / 'site.toml'}",
        file=sys.stderr,
    )
