"""The server as a program: one for each site, with its lock and its log."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from peer_sync.errors import ConfigError, PeerSyncError
from peer_sync.lock import Lock
from peer_sync.server import access
from peer_sync.server.embedded import Server, place
from peer_sync.server.process import GREETING, SERVED, ServedError
from peer_sync.server.reception import BIND_SECONDS, TICK_SECONDS
from peer_sync.site import Site, load_site

DESCRIPTORS = 2048
LARGE_BLOCK_BYTES = 4 << 20


@contextmanager
def serving(site: Site, console: bool = False) -> Iterator[Server]:
    """The site's server, listening, while no other process serves this outbox.

    Args:
        site: its ``listen`` and ``host_key`` are set.
        console: whether logins, downloads and denials are shown on standard error as well.

    Raises:
        ConfigError: ``listen`` is missing, the port is busy, or the host key cannot be used.
        ServedError: another process serves it.
    """
    place(site)
    state = site.folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    lock = _lock(site)
    try:
        server = Server(site)
        access.write_to(site.folder / "server.log", console)
        _allow_descriptors()
        _keep_freed_memory()
        yield server
    finally:
        lock.release()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one site's outbox until standard input closes; says ``listening on``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m peer_sync.server", description="read-only SFTP server of a site"
    )
    parser.add_argument("site", help="site.toml")
    parser.add_argument("--parent", type=int, help="end as well when this process is gone")
    arguments = parser.parse_args(argv)
    try:
        with serving(load_site(arguments.site)) as server, suppress(KeyboardInterrupt):
            sys.stdout.write(f"{GREETING}{server.address}\n")
            sys.stdout.flush()
            server.serve([sys.stdin.fileno()], arguments.parent)
    except PeerSyncError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return SERVED if isinstance(error, ServedError) else 2
    return 0


def _lock(site: Site) -> Lock:
    """The right to serve; one that an ending server still has is waited for, shortly."""
    deadline = time.monotonic() + BIND_SECONDS
    while True:
        try:
            return Lock(site.folder / "state" / "serve.lock")
        except ConfigError as error:
            if time.monotonic() < deadline:
                time.sleep(TICK_SECONDS / 2)
                continue
            raise ServedError(
                f"the outbox of site {site.name!r} is served already, by a training or nnunet-gml serve",
                hint="one server is enough; end the other one if it shall be this one",
            ) from error


def _keep_freed_memory() -> None:
    """Three times the speed with glibc.

    It gives memory behind its last large block back to the system at once, and every answer would
    fetch fresh pages. A freed block of this size teaches it to keep twice as much.
    """
    bytes(LARGE_BLOCK_BYTES)


def _allow_descriptors() -> None:
    """Enough for all connections and their open files; the usual soft limit of 1024 is not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
