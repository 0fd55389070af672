"""Fixtures: two sites and their mailboxes, servers, and a data set that nnU-Net has preprocessed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from courier_kit import build_sites, running_server
from hypothesis import HealthCheck, settings
from nnunet_kit import preprocess
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from trainer_kit import Training

from nnunet_gml import trust
from peer_sync.mailbox import Mailbox
from peer_sync.server.embedded import Server
from peer_sync.site import Site

settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")
"""The same examples in every run, however slow it is; ``--hypothesis-profile=default`` looks for others."""

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def sites(tmp_path) -> dict[str, Site]:
    """Two sites, north and south, that read each other's folder."""
    return build_sites(tmp_path)


@pytest.fixture
def mailboxes(sites) -> Iterator[dict[str, Mailbox]]:
    """Their mailboxes, open."""
    opened = {name: Mailbox(site) for name, site in sites.items()}
    yield opened
    for mailbox in opened.values():
        mailbox.close()


@pytest.fixture
def north(mailboxes) -> Mailbox:
    """The site that collects in most tests."""
    return mailboxes["north"]


@pytest.fixture
def south(mailboxes) -> Mailbox:
    """The site that offers in most tests."""
    return mailboxes["south"]


@pytest.fixture
def served_sites(tmp_path) -> dict[str, Site]:
    """Two sites with embedded servers of their own, not started."""
    return build_sites(tmp_path, served=True)


@pytest.fixture
def server(served_sites) -> Iterator[Server]:
    """South's embedded server, running in a thread."""
    with running_server(Server(served_sites["south"])) as running:
        yield running


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory):
    """The phantom, planned and preprocessed by nnU-Net once for all tests; call it with a kind."""
    made: dict[str, Path] = {}

    def folder(kind: str = "labels") -> Path:
        if kind not in made:
            made[kind] = preprocess(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder


@pytest.fixture
def run(phantom_data, tmp_path, monkeypatch) -> Training:
    """Train a class for a few steps in this process; a peer is trusted however little it knows."""
    monkeypatch.setattr(trust, "LEAST_DICE", -1.0)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *arguments: None)  # a second an epoch
    monkeypatch.setattr("nnunet_gml.progress_picture.draw", lambda fold: None)  # half a second a round
    return Training(phantom_data, tmp_path, monkeypatch)


@pytest.fixture
def bench(monkeypatch) -> Iterator[Callable[[str], ModuleType]]:
    """The benchmarks' modules by name, as their commands import them; forgotten afterwards."""
    if not BENCHMARKS.exists():
        pytest.skip("the benchmarks are not beside these tests")
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in {path.stem for path in BENCHMARKS.glob("*.py")} - before:
        sys.modules.pop(name, None)
