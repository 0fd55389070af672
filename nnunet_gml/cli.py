"""The command ``nnunet-gml``: parse, call, report. Nothing heavy is imported before it is needed."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_gml import __version__, demo, simulate
from nnunet_gml.commands import doctor, explain, serve, status, sync
from nnunet_gml.installed import trainers_folder
from peer_sync.errors import ConfigError, PeerSyncError

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns
EXIT_CONFIG = 2
"""Something is wrong at the start; trying again changes nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; our own errors become two lines on stderr, a bug shows its traceback."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except PeerSyncError as error:
        print(f"nnunet-gml: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"nnunet-gml: hint: {error.hint}", file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("nnunet-gml: interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-gml", description="Gossip mutual learning for nnU-Net: train together without a server."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_site_commands(commands)
    _add_shared_commands(commands)
    for name, module, text in (
        ("simulate", simulate, "run several sites on this machine through the stock command"),
        ("demo", demo, "three sites with built-in images: the whole way in a quarter of an hour"),
        ("sync", sync, "move files for a training without network"),
        ("serve", serve, "let peers read this site's outbox, without a training"),
        ("doctor", doctor, "try every step between this site and its peers, and say what to do"),
        ("explain", explain, "what each peer gave to a training: trust, pull, Dice before and after"),
        ("status", status, "what the ledger says about every peer: last heard of, bytes, trust, refusals"),
    ):
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _add_site_commands(commands: "Commands[argparse.ArgumentParser]") -> None:
    """What one site does for itself."""
    trainers = commands.add_parser(
        "trainers", help="print the folder for nnU-Net's variable nnUNet_extTrainer"
    )
    trainers.set_defaults(run=_trainers)
    keygen = commands.add_parser("keygen", help="make this site's key and host key")
    keygen.add_argument("path", type=Path, help="private key to write; its host key gets the ending _host")
    keygen.add_argument("--site", default="", help="name of the site, a comment in the public key")
    keygen.set_defaults(run=_keygen)


def _add_shared_commands(commands: "Commands[argparse.ArgumentParser]") -> None:
    """What all sites must agree on."""
    federation = commands.add_parser("federation", help="what all sites share")
    check = federation.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "check", help="check federation.toml and site.toml files, alone and together"
    )
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="federation.toml or site.toml")
    check.set_defaults(run=_federation_check)
    plans = commands.add_parser("plans", help="the plans all sites share")
    digest = plans.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "digest", help="print the plans digest that federation.toml needs"
    )
    digest.add_argument("preprocessed", type=Path, help="folder nnUNet_preprocessed/DATASET")
    digest.add_argument("configuration", help="such as 3d_fullres")
    digest.add_argument(
        "-p", dest="plans", default="nnUNetPlans", help="plans identifier (default: %(default)s)"
    )
    digest.add_argument(
        "--by-name", action="store_true", help="for a federation.toml with classes: label numbers may differ"
    )
    digest.set_defaults(run=_plans_digest)


def _trainers(_: argparse.Namespace) -> int:
    print(trainers_folder())
    return 0


def _keygen(args: argparse.Namespace) -> int:
    from peer_sync.identity import generate_key

    lines = {
        "public_key": generate_key(args.path, args.site),
        "host_key": generate_key(args.path.with_name(f"{args.path.name}_host"), args.site),
    }
    for name, line in lines.items():
        print(f'{name} = "{line}"')
    print(
        f"nnunet-gml: {args.path} and {args.path}_host stay here; "
        "the two lines above go into federation.toml, by a way you trust",
        file=sys.stderr,
    )
    return 0


def _federation_check(args: argparse.Namespace) -> int:
    from peer_sync.federation import check_same, load_federation
    from peer_sync.site import check_together, load_site
    from peer_sync.tables import parse_toml

    sites, federations = [], []
    for path in args.files:
        if "site" in parse_toml(path)[0]:
            sites.append(load_site(path))
            federations.append(sites[-1].federation)
        else:
            federations.append(load_federation(path))
    check_together(sites)
    first = federations[0]
    for other in federations[1:]:
        check_same(first, other, "two federation files differ")
    print(f"federation {first.name}: {len(first.members)} sites, digest {first.digest}")
    for member in first.members:
        checked = " (site.toml checked)" if member.name in {site.name for site in sites} else ""
        print(f"  {member.name}  {member.address}{checked}")
    return 0


def _plans_digest(args: argparse.Namespace) -> int:
    from nnunet_gml.plans import plans_digest

    plans, dataset = (_read_json(args.preprocessed / name) for name in (f"{args.plans}.json", "dataset.json"))
    print(plans_digest(plans, dataset, args.configuration, args.by_name))
    return 0


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "plan with nnU-Net first") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", "write it again with nnU-Net") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, but expected a JSON object")
    return content


if __name__ == "__main__":
    sys.exit(main())
