"""Move files for a training without network (`courier = "agent"` in site.toml): copy this site's outbox
to its relay, and collect the weights that the training has ordered. Once, for cron; or with --watch
until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import add_named_site, named_site

if TYPE_CHECKING:
    from peer_sync.agent import Agent

DEFAULT_EVERY_SECONDS = 60.0
EXIT_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml sync``."""
    add_named_site(parser)
    parser.add_argument("--watch", action="store_true", help="go on until somebody ends it")
    parser.add_argument(
        "--every",
        type=_seconds,
        default=DEFAULT_EVERY_SECONDS,
        metavar="SECONDS",
        help="pause between two passes of --watch (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """One pass, whose exit code tells whether everything succeeded; or many, until somebody ends them."""
    from peer_sync.agent import Agent

    agent = Agent(named_site(args.site))
    try:
        if args.watch:
            _watch(agent, args.every)
            return 0
        steps = agent.run()
        _print([step.text for step in steps])
        return 0 if all(step.succeeded for step in steps) else EXIT_FAILED
    finally:
        agent.close()


def _watch(agent: Agent, seconds: float) -> None:
    """Pass after pass; an end in the middle of one loses nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told: list[str] = []
    with suppress(KeyboardInterrupt):
        while True:
            texts = [step.text for step in agent.run()]
            _print([text for text in texts if text not in told])
            told = texts
            time.sleep(seconds)


def _print(texts: list[str]) -> None:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    sys.stdout.writelines(f"{now} {text}\n" for text in texts)
    sys.stdout.flush()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds
