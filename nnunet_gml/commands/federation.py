"""What all sites share: the one file that names them, their keys and their addresses.

One site founds it from the cards that `nnunet-gml init` made, and sends it to all. Each change raises its
version; a site that still has an older one is told so by name, and trains alone until it has the new file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_gml.commands import federation_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peer_sync.federation import Federation, Member

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Run = Callable[[argparse.Namespace], int]

MAX_SEED = 2**31
OWN = ("name", "public_key", "address")
"""What no two cards have in common."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of ``nnunet-gml federation``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _declare_new(_command(commands, "new", _new, "found a federation from the cards of its sites"))
    add = _command(commands, "add", _add, "take in sites by their cards, or change one with --replace")
    _take_file(add)
    _take_cards(add)
    add.add_argument(
        "--replace", action="store_true", help="a site may have another key or address than before"
    )
    remove = _command(commands, "remove", _remove, "leave out sites: the others ignore them from then on")
    _take_file(remove)
    remove.add_argument("sites", nargs="+", metavar="SITE", help="name of a site")
    _declare_agree(_command(commands, "agree", _agree, "write down the plans and classes agreed on"))
    show = _command(commands, "show", _show, "draw the file as a table, with the digest to read out")
    show.add_argument("file", type=Path, metavar="FILE", help="federation.toml or site.toml")
    federation_figures.add_arguments(
        _command(
            commands, "figures", federation_figures.run, "what each site has said about its own validation"
        )
    )
    check = _command(commands, "check", _check, "check federation.toml and site.toml, alone and together")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="federation.toml or site.toml")


def _command(commands: Commands, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _take_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="federation.toml")


def _take_cards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cards", nargs="+", type=Path, metavar="CARD", help="file with a site's card")


def _declare_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what the federation calls itself")
    _take_cards(parser)
    parser.add_argument(
        "--seed",
        type=int,
        help="start of initial weights and of the draws of peers (default: a random number)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("federation.toml"), help="file to write (default: %(default)s)"
    )


def _declare_agree(parser: argparse.ArgumentParser) -> None:
    _take_file(parser)
    parser.add_argument(
        "--plans-digest", required=True, help="what nnunet-gml plans digest prints at every site"
    )
    parser.add_argument(
        "--classes", nargs="+", help="all classes by name; then every site may number its labels as it likes"
    )


def _new(args: argparse.Namespace) -> int:
    from secrets import randbelow

    from peer_sync import founding

    seed = randbelow(MAX_SEED) if args.seed is None else args.seed
    return _tell(founding.found(args.out, args.name, seed, _read_cards(args.cards)))


def _add(args: argparse.Namespace) -> int:
    from peer_sync import founding
    from peer_sync.federation import load_federation

    before = load_federation(args.file)
    return _tell(founding.add(args.file, _read_cards(args.cards), args.replace), before)


def _read_cards(paths: Sequence[Path]) -> list[Member]:
    """The cards of different sites. Raises `ConfigError`, also where two are of one site."""
    from peer_sync.card import read_card_file
    from peer_sync.errors import ConfigError

    cards = [(path, read_card_file(path)) for path in paths]
    for number, (path, member) in enumerate(cards):
        for other_path, other in cards[:number]:
            same = [name for name in OWN if getattr(member, name) == getattr(other, name)]
            if same:
                raise ConfigError(
                    f"two cards have the same {' and '.join(same)}: {other_path} and {path}",
                    hint="was one card saved twice? If not: each site makes its own, by nnunet-gml init in a "
                    "folder of its own, and gives an address of its own",
                )
    return [member for _, member in cards]


def _remove(args: argparse.Namespace) -> int:
    from peer_sync import founding

    return _tell(founding.remove(args.file, args.sites))


def _agree(args: argparse.Namespace) -> int:
    from peer_sync import founding
    from peer_sync.federation import load_federation

    before = load_federation(args.file)
    return _tell(founding.agree(args.file, args.plans_digest, args.classes), before)


def _show(args: argparse.Namespace) -> int:
    from rich.console import Console

    from nnunet_gml.commands import federation_table
    from peer_sync.federation import load_federation
    from peer_sync.site import load_site

    is_site = _is_site_file(args.file)
    federation = load_site(args.file).federation if is_site else load_federation(args.file)
    federation_table.show(Console(highlight=False), federation)
    return 0


def _check(args: argparse.Namespace) -> int:
    from peer_sync.federation import check_same, load_federation
    from peer_sync.site import check_together, load_site

    sites, federations = [], []
    for path in args.files:
        if _is_site_file(path):
            sites.append(load_site(path))
            federations.append(sites[-1].federation)
        else:
            federations.append(load_federation(path))
    check_together(sites)
    first = federations[0]
    for other in federations[1:]:
        check_same(first, other, "two federation files differ")
    print(f"{_summary(first)}, digest {first.digest}")
    for member in first.members:
        checked = " (site.toml checked)" if member.name in {site.name for site in sites} else ""
        print(f"  {member.name}  {member.address}{checked}")
    return 0


def _is_site_file(path: Path) -> bool:
    from peer_sync.tables import parse_toml

    return "site" in parse_toml(path)[0]


def _tell(federation: Federation, before: Federation | None = None) -> int:
    """Say what the file is now, and that all sites need it; or that it is as it was before."""
    from nnunet_gml.commands.federation_table import groups

    names = ", ".join(member.name for member in federation.members)
    print(f"{_summary(federation)} ({names}), digest")
    print("\n".join(groups(federation.digest)))
    if before is not None and before.digest == federation.digest:
        print(f"nnunet-gml: all that stood in {federation.path} already; it is as it was", file=sys.stderr)
        return 0
    print(
        f"nnunet-gml: send {federation.path} to every site; each puts it in the place of its own and "
        "compares the digest above by telephone (nnunet-gml federation show)",
        file=sys.stderr,
    )
    return 0


def _summary(federation: Federation) -> str:
    return f"federation {federation.name}, version {federation.version}: {len(federation.members)} sites"
