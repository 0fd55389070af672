"""The command ``nnunet-gml``: parse, call, report. Nothing heavy is imported before it is needed."""

import argparse
import sys
from collections.abc import Sequence

from nnunet_gml import __version__
from nnunet_gml.commands import (
    check,
    compare,
    demo,
    doctor,
    explain,
    export,
    federation,
    import_model,
    init,
    keygen,
    plans,
    provenance,
    serve,
    simulate,
    status,
    sync,
    trainers,
    watch,
)
from peer_sync.errors import ConfigError, PeerSyncError

EXIT_CONFIG = 2
"""Something is wrong at the start; trying again changes nothing."""
COMMANDS = (
    ("init", init, "make this site's keys, site.toml and the card for the others"),
    ("keygen", keygen, "make this site's key and host key"),
    ("federation", federation, "what all sites share: who takes part"),
    ("plans", plans, "what all sites share: nnU-Net's plans"),
    ("trainers", trainers, "print the folder for nnU-Net's variable nnUNet_extTrainer"),
    ("serve", serve, "let peers read this site's outbox, without a training"),
    ("sync", sync, "move files for a training without network"),
    ("check", check, "everything before a training: files, other sites, memory, pace, ways to peers"),
    ("doctor", doctor, "try every step between this site and its peers, and say what to do"),
    ("status", status, "what the ledger says about every peer: last heard of, bytes, trust, refusals"),
    ("watch", watch, "the live state of a training: epoch, losses, Dice, rounds, courier"),
    ("explain", explain, "what each peer gave to a training: trust, pull, Dice before and after"),
    ("provenance", provenance, "which peer's weights touched which epochs of a training"),
    ("export", export, "trained folds as the zip that nnU-Net installs, with a model card"),
    ("import", import_model, "somebody's model as a common starting point for -pretrained_weights"),
    ("compare", compare, "what every site and organ gained over stock nnU-Net: tables and a report"),
    ("simulate", simulate, "run several sites on this machine through the stock command"),
    ("demo", demo, "three sites with built-in images: the whole way in a quarter of an hour"),
)
"""Name, module, and a line of help, in the order in which a site needs them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; our own errors become two lines on stderr, a bug shows its traceback."""
    args = parser().parse_args(argv)
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


def parser() -> argparse.ArgumentParser:
    """The whole command line; the documentation is made from it, too."""
    whole = argparse.ArgumentParser(
        prog="nnunet-gml", description="Gossip mutual learning for nnU-Net: train together without a server."
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, module, text in COMMANDS:
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__))
    return whole


if __name__ == "__main__":
    sys.exit(main())
