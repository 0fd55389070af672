"""How fast, and for how many bytes: steps, memory, stalls, bytes, scale, start-up, surface metrics.

    python benchmarks/speed.py [PART ...] [--out bench-run] [--quick] [--repetitions N] [--device cpu|cuda]

Each part leaves OUT/PART.json (a quick call OUT/quick/PART.json). After each the page is written anew, from
all parts that are there, also from earlier calls; parts that are missing are named there. On a machine with a
GPU most of it takes hours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from speed_page import PARTS, about_this_call, write_page
from speed_settings import Settings

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
REPETITIONS, QUICK_REPETITIONS = 10, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts that were asked for, and write the page."""
    args = arguments(argv)
    out: Path = args.out.absolute() / ("quick" if args.quick else "")
    out.mkdir(parents=True, exist_ok=True)
    repetitions = args.repetitions or (QUICK_REPETITIONS if args.quick else REPETITIONS)
    settings = Settings(out, args.quick, repetitions, args.device or device())
    page = args.page or (out if args.quick else RESULTS)
    for part in () if args.only_page else args.parts or PARTS:
        sys.stderr.write(f"speed: {part} ...\n")
        module = importlib.import_module(f"speed_{part}")
        found = {**about_this_call(settings), "found": module.measure(settings)}
        (out / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
        write_page(page, out)
    write_page(page, out)
    sys.stdout.write(f"speed: {page / 'speed.md'}\n")
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("bench-run"), help="folder for what is measured")
    parser.add_argument(
        "--page", type=Path, help="folder for the page (default: docs/results; OUT/quick if quick)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that it works; not for docs")
    parser.add_argument("--repetitions", type=int, help=f"behind each median (default: {REPETITIONS})")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--only-page", action="store_true", help="write the page from what is there")
    args = parser.parse_args(argv)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return args


def device() -> str:
    """``cuda`` where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
