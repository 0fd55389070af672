"""Move files for a training without network (`courier = "agent"` in site.toml): copy this site's outbox
to its relay, and collect the weights that the training has ordered. Once, for cron; or with --watch
until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from datetime import datetime
from pathlib import Path

DEFAULT_EVERY_SECONDS = 60.0
EXIT_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml sync``."""
    parser.add_argument("site", type=Path, metavar="SITE_TOML")
    parser.add_argument("--watch", action="store_true", help="go on until somebody ends it")
    parser.add_argument(
        "--every",
        type=_seconds,
        default=DEFAULT_EVERY_SECONDS,
        metavar="SECONDS",
        help="pause between two passes of --watch (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """One pass, or many; the exit code tells whether everything of the last one succeeded."""
    from peer_sync.agent import Agent
    from peer_sync.site import load_site

    agent, ended = Agent(load_site(args.site)), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    told: list[str] = []
    try:
        while True:
            steps = agent.run()
            texts = [step.text for step in steps]
            _print([text for text in texts if text not in told])
            told = texts
            if not args.watch or ended.wait(args.every):
                return 0 if all(step.succeeded for step in steps) else EXIT_FAILED
    finally:
        agent.close()


def _print(texts: list[str]) -> None:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    sys.stdout.writelines(f"{now} {text}\n" for text in texts)
    sys.stdout.flush()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds
