"""``nnunet-gml plans pool``: plan together, and nobody's images leave their site."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import named_site
from nnunet_gml.commands.options import add_plans_name, add_site_and_dataset, age

if TYPE_CHECKING:
    from nnunet_gml.planning.pool_steps import Pool

LOOK_SECONDS = 10.0
LINGER_SECONDS = 30.0
"""Done here: peers look every ten seconds, and still need what we have published last."""
STILL_WAITING = 3
"""Exit code where others have to do something first."""
AGAIN = (
    "not done yet: every site has to run nnunet-gml plans pool. Run this again when the others have; "
    "what was done is kept. --wait 30m stays and waits"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml plans pool``."""
    parser.epilog = (
        "Run it at every site, as often as you like: each call does what can be done now. Others learn the "
        "number of training cases, sums and histograms of sampled voxels, and histograms of image sizes in "
        "which no bin has fewer cases than --least. Exit code 3: others have to do something first."
    )
    add_site_and_dataset(parser)
    parser.add_argument("-c", dest="configuration", default="3d_fullres", help="(default: %(default)s)")
    add_plans_name(parser)
    parser.add_argument(
        "-pl",
        dest="planner",
        default="ExperimentPlanner",
        help="planner, equal everywhere; -p then names its plans",
    )
    parser.add_argument("-gpu_memory_target", type=float, metavar="GB", help="as nnU-Net's, equal everywhere")
    parser.add_argument("-np", type=int, default=2, help="cases read at the same time (default: %(default)s)")
    parser.add_argument(
        "--least", type=int, default=5, help="cases in a bin, at least; 3 or more (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="read the images anew, for mended data")
    parser.add_argument(
        "--wait", type=age, default=timedelta(0), metavar="30m", help="stay and wait for the others so long"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Advance; with ``--wait`` until all agree or the time is over."""
    from nnunet_gml.planning.pool_steps import Pool, Wishes
    from nnunet_gml.planning.pooling import FEWEST_CASES
    from peer_sync import documents
    from peer_sync.errors import ConfigError

    if args.least < FEWEST_CASES:
        raise ConfigError(f"--least is {args.least}, expected at least {FEWEST_CASES}", "leave it out for 5")
    wishes = Wishes(args.configuration, args.planner, args.gpu_memory_target, args.plans, args.least, args.np)
    site = named_site(args.site)
    with _progress() as step, documents.served(site):
        pool = Pool(site, args.dataset, wishes, _say, step)
        waiting = _advance(pool, args.again, args.wait.total_seconds())
        if not waiting and args.wait and site.listen:
            time.sleep(LINGER_SECONDS)
    if waiting:
        _say(AGAIN)
        return STILL_WAITING
    _tell_end(pool)
    return 0


def _advance(pool: Pool, again: bool, wait_seconds: float) -> list[str]:
    """Returns what is still waited for when the time is over."""
    deadline = time.monotonic() + wait_seconds
    told: list[str] = []
    while True:
        waiting, again = pool.advance(again), False
        if waiting != told:
            for what in waiting:
                _say(f"waiting for {what}")
            told = waiting
        if not waiting or time.monotonic() >= deadline:
            return waiting
        time.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))


def _tell_end(pool: Pool) -> None:
    federation, digest = pool.site.federation, pool.digest
    _say(f"all sites have planned the same; plans digest {digest}")
    if not federation.plans_digest:
        _say(f"one of you: nnunet-gml federation agree {federation.path.name} --plans-digest {digest}")
        _say(
            "and sends the new file to all before the trainings begin: sites with different files take "
            "nothing from each other"
        )
    elif federation.plans_digest != digest:
        _say(f"attention: federation.toml expects {federation.plans_digest}")
    wishes = pool.wishes
    _say(
        f"now: nnUNetv2_preprocess -d {pool.dataset_id} -c {wishes.configuration} "
        f"-plans_name {wishes.plans_name}"
    )


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A bar on a terminal while images are read."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("reading images", visible=False)
        yield lambda cases: bars.update(task, advance=1, total=cases, visible=True)


def _say(sentence: str) -> None:
    print(sentence, flush=True)
