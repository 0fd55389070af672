"""Part of `benchmarks/speed.py`: bytes per site and 100 epochs, counted on the wire, beside FedAvg's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speed_couriers import couriers, led_through_lines, run_round, served_sites
from speed_plans import PLANNED_FOR, SIZES, plan, planned
from speed_rounds import EPOCHS, rounds_per_100_epochs
from speed_settings import Settings, verdict
from torch import nn
from trained import parameters, untrained

from nnunet_gml import weights
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.markdown import markdown_table
from nnunet_gml.payload import DTYPES

PART = "wire"
TITLE = "Bytes per site and 100 epochs, beside FedAvg's"
NETWORKS = ("standard", "resenc-l")
QUICK_NETWORKS = ("small",)
SITES = ("north", "south")
ROUNDS = 2
WAIT_SECONDS = 600.0
MEGABYTE = 1e6
DEFAULT = next(iter(DTYPES))
"""What site.toml has without the key ``payload``."""
TARGETS = {DEFAULT: 0.10, "int8": 0.05}
"""Share of FedAvg's bytes."""
OFTEN = (5, 1)
"""Epochs per round of FedAvg schedules that are held beside."""
ABOUT = """\
Two sites, each with courier and server in processes of their own, fetch the weights of a network of
nnU-Net's from each other over real SFTP; {rounds} rounds. Their lines run through a proxy that counts every
byte in both directions: key exchange, login, listing, manifest, signature, weights, acknowledgements;
without the headers of TCP and IP. Weights are those of an untrained network: bytes depend on shapes alone.

**Schedule**: {schedule}. In a round a site fetches once, and is fetched from once on average.

**FedAvg**: through a server, 2 transfers of float32 in each of the same rounds, as many bytes on the wire as
our own courier needs for them. *Fetched* counts every transfer once, at the site that asked for it; *through
the line* counts both what a site fetches and what is fetched from it.
"""
LIMIT = """\
At the same rounds the number of parameters and of rounds cancels out. One fetch of float16 against two
transfers of float32 is a quarter, of 8 bits an eighth; through the line, a half and a quarter. What int8
does to Dice: [payload](payload.md).
"""


def measure(settings: Settings) -> dict[str, Any]:
    """Count every network and payload; JSON-able."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="speed-wire-") as folder:
        for name in QUICK_NETWORKS if settings.quick else NETWORKS:
            plan(SIZES[name], Path(folder) / "plans", settings.quick)
            network = network_of(name, Path(folder) / "plans")
            for dtype in DTYPES:
                with tempfile.TemporaryDirectory(dir=folder) as part:
                    counted = transfer(network, dtype, Path(part), ROUNDS)
                rows.append({"network": SIZES[name].words, "parameters": parameters(network), **counted})
    return {"rows": rows, "rounds": ROUNDS, "rounds_per_100_epochs": rounds_per_100_epochs()}


def network_of(name: str, folder: Path) -> nn.Module:
    """The network that nnU-Net has planned, with random weights."""
    found = planned(SIZES[name], PLANNED_FOR, folder)
    architecture = found.plans["configurations"][found.configuration]["architecture"]
    return untrained(architecture, channels=1, classes=PLANNED_FOR + 1)


def transfer(network: nn.Module, dtype: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Let two sites fetch the network from each other; bytes of one transfer, mean over all.

    Returns:
        ``file_bytes``; ``ledger_bytes``, with manifest and signature; ``wire_bytes``, all that passed.

    Raises:
        RuntimeError: a fetch did not work.
    """
    payload = folder / "payload"
    weights.write(network, payload, dtype)
    sites = served_sites(folder, SITES)
    with (
        led_through_lines(sites, SITES) as (led, lines),
        couriers(led, payload, dtype, WAIT_SECONDS) as crowd,
    ):
        for number in range(1, rounds + 1):
            answers = run_round(crowd, number)
            if not all(answer["pulled"] for answer in answers):
                raise RuntimeError(f"round {number} did not work: {answers}")
        passed = sum(sum(line.passed_bytes().values()) for line in lines.values())
        ledger = sum(courier.collected_bytes() for courier in crowd)
    transfers = rounds * len(SITES)
    size = payload.stat().st_size
    return {
        "dtype": dtype,
        "file_bytes": size,
        "ledger_bytes": ledger / transfers,
        "wire_bytes": passed / transfers,
    }


def tables(found: Mapping[str, Any]) -> str:
    """The section's Markdown."""
    rows, per_100 = found["rows"], found["rounds_per_100_epochs"]
    trainer = GossipTrainer
    schedule = (
        f"the default's {trainer.warmup_epochs} epochs of warm-up, then a round every "
        f"{trainer.epochs_per_round}; of {EPOCHS:,} epochs, {per_100:g} rounds per 100"
    )
    about = ABOUT.format(rounds=found["rounds"], schedule=schedule)
    ratios, counted = markdown_table(shares(rows, per_100)), markdown_table(details(rows, per_100))
    return "\n".join([about, ratios, LIMIT, counted])


def shares(rows: Sequence[Mapping[str, Any]], per_100_epochs: float) -> list[list[str]]:
    """Each payload's share of FedAvg's bytes, by network."""
    seldom = [f"FedAvg every {epochs} epochs" if epochs > 1 else "FedAvg every epoch" for epochs in OFTEN]
    cells = [["network", "payload", "counted", "of FedAvg's", "target", "", *seldom]]
    for row in rows:
        share = row["wire_bytes"] / fedavg_bytes(rows, row["network"])
        for words, times in (("fetched", 1), ("through the line", 2)):
            target = TARGETS.get(row["dtype"])
            limit = times * file_share(row["dtype"])
            held = ["-", ""] if target is None else [f"{target:.0%}", verdict(times * share, target, limit)]
            often = [f"{times * share * per_100_epochs * epochs / 100:.1%}" for epochs in OFTEN]
            name = f"{row['dtype']} (default)" if row["dtype"] == DEFAULT else row["dtype"]
            cells.append([row["network"], name, words, f"{times * share:.1%}", *held, *often])
    return cells


def file_share(dtype: str) -> float:
    """Bytes of one fetch of so many numbers, over two of float32.

    >>> file_share("float16"), file_share("int8")
    (0.25, 0.125)
    """
    return {"float32": 4, "float16": 2, "int8": 1}[dtype] / 8


def fedavg_bytes(rows: Sequence[Mapping[str, Any]], network: str) -> float:
    """Bytes of one site in one round of FedAvg: the network as float32, up and down."""
    return float(
        2 * next(row["wire_bytes"] for row in rows if row["network"] == network and row["dtype"] == "float32")
    )


def details(rows: Sequence[Mapping[str, Any]], per_100_epochs: float) -> list[list[str]]:
    """What was counted, in MB of a million bytes."""
    heads = ["network", "parameters", "payload", "file, MB", "ledger, MB", "wire, MB", "wire over file"]
    cells = [[*heads, "MB per site and 100 epochs, fetched", "FedAvg, MB"]]
    for row in rows:
        sizes = [row[key] / MEGABYTE for key in ("file_bytes", "ledger_bytes", "wire_bytes")]
        fedavg = fedavg_bytes(rows, row["network"]) / MEGABYTE
        cells.append(
            [
                row["network"],
                f"{row['parameters']:,}",
                row["dtype"],
                *(f"{size:.3f}" for size in sizes),
                f"{sizes[2] / sizes[0]:.4f}",
                *(f"{each * per_100_epochs:.1f}" for each in (sizes[2], fedavg)),
            ]
        )
    return cells
