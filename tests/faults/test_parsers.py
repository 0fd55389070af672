"""Thousands of random and mutated inputs through every parser of a peer's bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fuzz_process
import pytest
from process_kit import environment

INPUTS = 10_000
MOST_MIB = 256


def fuzzed(parser: str, folder: Path, record_property) -> dict[str, int]:
    """How often each verdict was given, in a process that neither crashed, hung nor grew."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", fuzz_process.__file__, parser, str(INPUTS), str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    found = json.loads(ended.stdout)
    assert found["growth_mib"] < MOST_MIB
    assert sum(found["verdicts"].values()) == INPUTS
    record_property("cases", INPUTS)
    record_property(
        "found",
        f"{found['growth_mib']:.0f} MiB more memory, slowest {1000 * found['slowest_seconds']:.0f} ms",
    )
    return found["verdicts"]


def test_hostile_manifests(memory_path, record_property):
    """10,000 random and mutated manifests and signatures, half of them signed with the peer's own key.

    Each is refused by a rule, or is what the peer signed, to the byte; no crash, no hang, at most 256 MiB.
    """
    verdicts = fuzzed("manifests", memory_path, record_property)

    assert {"manifest", "signature", "size", "protocol", "federation"} <= verdicts.keys()


def test_hostile_safetensors_headers(memory_path, record_property):
    """10,000 weights files with random and mutated headers, most of them of the right length.

    Each is refused by a rule, or has our own header to the byte; no crash, no hang, at most 256 MiB.
    """
    verdicts = fuzzed("headers", memory_path, record_property)

    assert {"header", "size"} <= verdicts.keys()
    assert verdicts["header"] > INPUTS // 3


@pytest.mark.slow
def test_hostile_encrypted_weights(memory_path, record_property):
    """10,000 random and mutated files in the age format, for a federation that encrypts.

    Each is refused by rule encryption, or hides what was sealed; no crash, no hang, at most 256 MiB.
    """
    verdicts = fuzzed("sealed", memory_path, record_property)

    assert verdicts["encryption"] > INPUTS // 2
