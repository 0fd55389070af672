"""`make bench-payload`: what float32, float16 and int8 cost in bytes, errors and seconds.

Measured on the trained networks of `make hippocampus`, and on one of full size that this command trains for
some minutes. The page goes to docs/results/payload.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from full_size import FEATURES, plans_of, six_stages, train_full_size
from payload_page import TYPES, Row, Size, page
from reconstruction import Reference, journey
from torch import nn
from trained import Trained, parameters, read_run, untrained

from nnunet_gml import weights
from nnunet_gml.planning.planned import raw_description
from nnunet_gml.planning.plans import class_names
from nnunet_gml.simulation.arms import class_name
from nnunet_gml.simulation.scores import STOCK
from nnunet_gml.simulation.workspace import Recipe, SiteSpace
from peer_sync.errors import PeerSyncError

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "payload.md"
ABOUT = """\
# Payload: float32, float16 and 8 bits

What a network's weights cost on the way to a peer, and what they lose. Made by `make bench-payload` after
`make hippocampus`.

Images: Medical Segmentation Decathlon, Task04_Hippocampus (arXiv:1902.09063, CC BY-SA 4.0), T1 MRI with two
classes; sites simulated from one source, not hospitals. Networks:

- **{small_stages} stages** ({small_features} features): the {networks} trained networks of `make hippocampus`
  ({sites} sites; {trainers}; {epochs} epochs of {iterations} steps), each on the held-out cases of its own
  site, {cases} in all.
- **{stages} stages** ({features} features): one network of full size, stock nnU-Net, {steps} steps of two
  patches on site {site}: real weights of a short training, not a good segmentation; on that site's
  {full_cases} held-out cases.

A case is preprocessed by nnU-Net, passes the network whole, in float32 and without mirroring, and is compared
with the contours in the preprocessed image's grid (nnU-Net's own sliding window keeps logits as float16,
which is coarser than what is measured here). *Last offer* is there for scale: the newest weights that the
site of the network had offered when its training ended, float16 and {offers} epochs old.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("hippocampus-run"), help="run folder")
    parser.add_argument("--steps", type=int, default=300, help="of the full-size network's training")
    parser.add_argument("--timings", type=int, default=7, help="runs behind each median of seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    if not (args.run / "results.csv").exists():
        sys.stdout.write(f"{args.run} holds no finished run; `make hippocampus` makes one\n")
        return 0
    try:
        text = report(args.run.resolve(), args.steps, args.timings)
    except PeerSyncError as error:
        sys.stderr.write(f"bench-payload: error: {error}\nbench-payload: hint: {error.hint}\n")
        return 1
    args.out.write_text(text)
    sys.stdout.write(text)
    return 0


@dataclass
class Measured:
    """Networks of one kind."""

    rows: list[Row]
    sizes: list[Size]
    cases: int


def report(run: Path, steps: int, timings: int) -> str:
    """Measure everything; the page's text."""
    recipe, sites = read_run(run)
    small = measure_small(run, recipe, sites, timings)
    full = measure_full_size(run / "full-size", sites[0], steps, timings)
    about = ABOUT.format(
        small_stages=len(recipe.features or ()),
        small_features="-".join(map(str, recipe.features or ())),
        networks=len(sites) * len(recipe.trainers),
        sites=len(sites),
        trainers=" and ".join(recipe.trainers),
        epochs=recipe.epochs,
        iterations=recipe.iterations,
        cases=small.cases,
        stages=len(FEATURES),
        features="-".join(map(str, FEATURES)),
        steps=steps,
        site=sites[0].name,
        full_cases=full.cases,
        offers=recipe.epochs_per_round,
    )
    sizes = [*small.sizes, *full.sizes, *planned_sizes(sites[0])]
    return page(about, class_names(raw_description(sites[0].raw)), sizes, [*small.rows, *full.rows], timings)


def measure_small(run: Path, recipe: Recipe, sites: Sequence[SiteSpace], timings: int) -> Measured:
    """The simulation's own networks: every site's of every trainer, on that site's held-out cases."""
    title = f"{len(recipe.features or ())} stages"
    journeys, older = [Row(title, dtype) for dtype in TYPES], Row(title, "last offer")
    measured = Measured([*journeys, older], [], 0)
    for site in sites:
        for trainer in recipe.trainers:
            variables = site.variables(run / "trainers")
            trained = Trained(site.model(class_name(trainer), recipe), variables, recipe.fold)
            reference = Reference(trained.model, trained.cases(site))
            for row in journeys:
                measure(row, reference, timings)
            if trainer != STOCK:
                offered = last_offer(site.mail(trainer, recipe) / "outbox", trained.model.network)
                older.losses.append(reference.loss(offered))
        measured.cases += len(reference.cases)
    measured.sizes.append(size_of(f"{title}, trained", trained.model.network, trained.checkpoint_bytes))
    return measured


def measure_full_size(folder: Path, source: SiteSpace, steps: int, timings: int) -> Measured:
    """The network of full size, trained here unless it is there already, on one site's held-out cases."""
    site, model = train_full_size(source, folder, steps, os.cpu_count() or 1)
    trained = Trained(model, site.variables(folder / "trainers"))
    reference = Reference(trained.model, trained.cases(site))
    title = f"{len(FEATURES)} stages"
    rows = [measure(Row(title, dtype), reference, timings) for dtype in TYPES]
    sizes = [size_of(f"{title}, trained", trained.model.network, trained.checkpoint_bytes)]
    return Measured(rows, sizes, len(reference.cases))


def measure(row: Row, reference: Reference, timings: int) -> Row:
    """Add one network to a row."""
    made, tensors = journey(reference.model.network, row.payload, timings)
    row.journeys.append(made)
    row.losses.append(reference.loss(tensors))
    return row


def last_offer(outbox: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """The newest weights that a site has offered."""
    manifest = json.loads(max(outbox.glob("*.json")).read_text())
    return weights.read(outbox / manifest["payload"], network, manifest["dtype"])[0]


def planned_sizes(site: SiteSpace) -> list[Size]:
    """Networks that nnU-Net plans, untrained: their bytes depend on shapes alone."""
    plans, dataset = plans_of(site), raw_description(site.raw)
    channels, outputs = len(dataset["channel_names"]), len(dataset["labels"])
    planned = {
        "nnU-Net's plan for these images": plans["configurations"]["3d_fullres"]["architecture"],
        "nnU-Net's plan for patches of 128x128x128": six_stages(plans, halved_stages=len(FEATURES) - 1),
    }
    return [size_of(name, untrained(how, channels, outputs), None) for name, how in planned.items()]


def size_of(name: str, network: nn.Module, checkpoint_bytes: int | None) -> Size:
    """Bytes of one network's files."""
    return Size(name, parameters(network), checkpoint_bytes, weights.payload_bytes(network))


if __name__ == "__main__":
    sys.exit(main())
