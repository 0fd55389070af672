"""Two sites with a network between them that a test can break; every test's docstring is a row of a table."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from courier_kit import build_sites
from process_kit import SIZE_BYTES, SiteProcess
from proxy_kit import Proxy, move_behind

from peer_sync.site import Site, load_site

MEMORY, MEMORY_BYTES = Path("/dev/shm"), 1 << 30
NEEDS_SSH = pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put fault and promise of each test into the report that `make faults` makes a table of."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function):
            fault, _, promise = inspect.getdoc(item.function).partition("\n")
            group = inspect.getdoc(item.module).partition("\n")[0]
            words = {"group": group.rstrip("."), "fault": fault, "promise": " ".join(promise.split())}
            item.user_properties += words.items()


@pytest.fixture
def memory_path(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of kills need no real disk."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


@dataclass
class Pair:
    """North and south, each with its own server; north reaches south through the proxy."""

    sites: dict[str, Site]
    proxy: Proxy

    @property
    def north(self) -> Site:
        """The site that suffers."""
        return self.sites["north"]

    @property
    def south(self) -> Site:
        """The site behind the broken network."""
        return self.sites["south"]


@pytest.fixture
def pair(tmp_path) -> Iterator[Pair]:
    """Two sites, not running."""
    sites = build_sites(tmp_path, served=True)
    proxy = move_behind(sites["south"])
    made = Pair({name: load_site(site.path) for name, site in sites.items()}, proxy)
    yield made
    proxy.close()


@pytest.fixture(
    params=[
        "paramiko",
        pytest.param(
            "ssh",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is not installed"),
            ],
        ),
    ]
)
def carrier(request, pair) -> str:
    """What carries SFTP for north: both in turn."""
    path = pair.north.path
    path.write_text(f'{path.read_text()}carrier = "{request.param}"\n')
    return request.param


@pytest.fixture
def launched() -> Iterator[list[SiteProcess]]:
    """Processes that a test has begun; what still runs at its end is killed."""
    running: list[SiteProcess] = []
    yield running
    for process in running:
        process.kill()


@pytest.fixture
def start(pair, launched) -> Callable[..., SiteProcess]:
    """Starts one site; arguments after its name are options of site_process.py."""

    def begin(name: str, *options: str) -> SiteProcess:
        launched.append(SiteProcess(pair.sites[name], *options))
        launched[-1].wait_until_it_runs()
        return launched[-1]

    return begin


@pytest.fixture
def start_both(pair, launched) -> Callable[..., list[SiteProcess]]:
    """Starts north and south at once; the options are south's, patience and size are for both."""

    def begin(*options: str, patient: bool = False, size_bytes: int = SIZE_BYTES) -> list[SiteProcess]:
        shared = ["--patient"] * patient
        both = [
            SiteProcess(pair.north, *shared, size_bytes=size_bytes),
            SiteProcess(pair.south, *shared, *options, size_bytes=size_bytes),
        ]
        launched.extend(both)
        for process in both:
            process.wait_until_it_runs()
        return both

    return begin
