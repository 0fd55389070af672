"""Does it pay? Every arm of the comparison on simulated sites, and the page with its table.

    python benchmarks/evidence.py hippocampus [--seeds 1 2 3] [--arms individual fedavg mutual] [--out FOLDER]
    python benchmarks/evidence.py headneck             (real contours; headneck-phantom needs no data)
    python benchmarks/evidence.py partial

One arm after the other, seed by seed; each is one call of `nnunet-gml simulate`, which continues where it
stopped. The page is written anew after each arm; arms that are missing or unfinished are named there. An arm
is a name from the list below or written out: NAME=TRAINER,attribute=value. Further options go to
`nnunet-gml simulate` as they are and replace the experiment's own (--device cuda --epochs 100).
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence_page import run_name, write_page
from evidence_plans import ARMS, EXPERIMENTS, Experiment, Part

from peer_sync.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment; 1 if an arm failed, or if its runs cannot stand on one page."""
    try:
        return run(argv)
    except ConfigError as error:
        sys.stderr.write(f"evidence: {error}\nhint: {error.hint}\n")
        return 1


def run(argv: Sequence[str] | None) -> int:
    """Prepare, simulate, and write the page; 1 if an arm failed. Raises `ConfigError`."""
    args, further = arguments(argv)
    experiment = EXPERIMENTS[args.experiment]
    out = args.out / args.experiment
    target = (args.page or RESULTS) / experiment.page
    command = shlex.join(["python", "benchmarks/evidence.py", *(argv or sys.argv[1:])])
    failed = []
    for seed in args.seeds:
        raw = experiment.prepare(out / f"raw-{seed}", seed)
        if not raw and not args.only_page:
            return 0
        for part in experiment.parts:
            for words in () if args.only_page else asked(args.arms, part):
                if simulate(experiment, part, raw, words, out / run_name(part.name, seed), seed, further):
                    failed.append(f"seed {seed}: {words}")
                write_page(target, experiment, out, args.seeds, command)
    write_page(target, experiment, out, args.seeds, command)
    for each in failed:
        sys.stderr.write(f"evidence: not finished: {each}\n")
    sys.stdout.write(f"evidence: {target}\n")
    return 1 if failed else 0


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and those that go on to `nnunet-gml simulate`."""
    known = "\n".join(f"  {name:<18} {words}" for name, words in ARMS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"arms:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--arms", nargs="+", help="names, written-out arms, or `all` (default: a reduced list)"
    )
    parser.add_argument("--out", type=Path, default=Path("evidence-run"), help="folder for data and runs")
    parser.add_argument("--page", type=Path, help="folder for the page (default: docs/results)")
    parser.add_argument("--only-page", action="store_true", help="write the page from what is there")
    return parser.parse_known_args(argv)


def asked(names: Sequence[str] | None, part: Part) -> list[str]:
    """The arms to run, as `nnunet-gml simulate` reads them; a part of one purpose keeps its own.

    >>> asked(["mutual", "x=nnUNetTrainerGML,mask=gt"], Part())
    ['mutual=nnUNetTrainerGML,merge=none', 'x=nnUNetTrainerGML,mask=gt']
    """
    if part.fixed or not names:
        return [ARMS[name] for name in part.arms]
    return [words for name in names for words in (ARMS.values() if name == "all" else [ARMS.get(name, name)])]


def simulate(
    experiment: Experiment,
    part: Part,
    raw: Sequence[Path],
    words: str,
    out: Path,
    seed: int,
    further: Sequence[str],
) -> int:
    """Run one arm by the command that users have; its exit code."""
    options = [*experiment.options, *part.options, "--arm", words, "--seed", str(seed), "--out", str(out)]
    program = [sys.executable, "-m", "nnunet_gml.cli", "simulate", *map(str, raw), *options, *further]
    return subprocess.run([*program, "--continue"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
