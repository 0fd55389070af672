"""`nnunet-gml demo`: three phantom sites, stock nnU-Net against gossip, in a quarter of an hour."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_gml.commands.simulate import simulate
from nnunet_gml.commands.simulate_options import DEFAULT_SEED, add_run_arguments
from nnunet_gml.simulation.recipe import STOCK, Recipe

SITES = ("north", "east", "south")
TRAINING_CASES = 12
TEST_CASES = 6
FIRST_DATASET_ID = 901
GOSSIP = "nnUNetTrainerGML"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml demo``."""
    parser.add_argument("--out", type=Path, default=Path("demo-run"), help="run folder (default: ./demo-run)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the phantom, run both trainers, and name the files to open next."""
    datasets = [phantom(args.out / "raw", site, number, args.seed) for number, site in enumerate(SITES)]
    recipe = Recipe(
        datasets=tuple(str(path.resolve()) for path in datasets),
        trainers=(STOCK, GOSSIP),
        epochs=16,
        iterations=25,
        seed=args.seed,
        device=args.device,
        patch_size=(32, 32, 32),
        features=(16, 32, 64),
        batch_size=2,
        learning_rate=0.05,
        warmup_epochs=6,
        epochs_per_round=2,
        mutual_epochs=1,
    )
    code = simulate(recipe, args.out, args.jobs, args.continued, side_by_side=args.side_by_side)
    print("Open next:")
    for path, what in files_to_open(args.out):
        print(f"  {path}  {what}")
    return code


def phantom(folder: Path, site: str, number: int, seed: int) -> Path:
    """The raw dataset of one phantom site; one that is there already is left as it is."""
    from nnunet_gml.phantom import write_dataset

    target = folder / f"Dataset{FIRST_DATASET_ID + number}_{site}"
    if not target.exists():
        part = folder / ".part"
        write_dataset(part, FIRST_DATASET_ID + number, site, seed, TRAINING_CASES, TEST_CASES).replace(target)
    return target


def files_to_open(out: Path) -> list[tuple[Path, str]]:
    """The files that show best what happened, as far as they exist."""
    site = out / "sites" / SITES[0]
    patterns = [
        (out, "table.md", "the table above, with its command"),
        (site, f"logs/train-{GOSSIP}.log", "one site's training, with every exchange"),
        (site, "mail/ledger.jsonl", "the ledger: what was offered and collected, and from whom"),
        (site, f"nnUNet_results/*/{GOSSIP}*/fold_*/progress.png", "nnU-Net's own training curves"),
        (site, f"predictions/{GOSSIP}/*.nii.gz", "a prediction for a held-out case"),
    ]
    found = [(sorted(folder.glob(pattern)), what) for folder, pattern, what in patterns]
    return [(paths[0], what) for paths, what in found if paths]
