"""Other servers of the transfer benchmark: our embedded one, and OpenSSH's at the far end of a long line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from courier_kit import build_sites
from transfer_clients import Place

from peer_sync.names import payload_name
from peer_sync.server.process import ServerProcess

NAME = payload_name(1, "a" * 64)
PROXY = Path(__file__).with_name("delay_proxy.py")
ROUND_TRIP_SECONDS = 0.08
CAPACITY_BYTES_PER_SECOND = 500e6 / 8
CHUNK_BYTES = 8 << 20


@contextmanager
def embedded_server(folder: Path, clients: int, size: int) -> Iterator[tuple[int, list[Place], Path]]:
    """Our server in a process of its own.

    Args:
        folder: of the site and its peers; it does not exist yet.
        clients: how many may log in, each with a key of its own.
        size: bytes in the one published file.

    Yields:
        Process number, a place for each client, and the published file.
    """
    names = ("server", *(f"client-{number}" for number in range(clients)))
    sites = build_sites(folder, names, served=True)
    server = sites["server"]
    file = server.folder / "outbox" / NAME
    file.parent.mkdir(parents=True)
    random_file(file, size)
    process = ServerProcess(server)
    port = int(process.address.rpartition(":")[2])
    places = [
        Place(port, name, server.member.host_key, str(sites[name].private_key), "") for name in names[1:]
    ]
    try:
        yield process.pid, places, file
    finally:
        process.stop()


@contextmanager
def long_line(place: Place) -> Iterator[Place]:
    """The same server at the far end of a long line."""
    command = [sys.executable, str(PROXY), str(place.port), "--round-trip", str(ROUND_TRIP_SECONDS)]
    command += ["--capacity", str(CAPACITY_BYTES_PER_SECOND)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("no pipe to the proxy")
        try:
            yield replace(place, port=int(process.stdout.readline().split()[-1]))
        finally:
            process.stdin.close()


def random_file(path: Path, size: int) -> None:
    """Write random bytes."""
    with path.open("wb") as file:
        for start in range(0, size, CHUNK_BYTES):
            file.write(os.urandom(min(CHUNK_BYTES, size - start)))
