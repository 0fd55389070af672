"""Small builders for the courier's tests: sites with keys and files, offers, facts; a peer that hangs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nnunet_gml.simulation.loopback import free_ports
from peer_sync.errors import TransportError
from peer_sync.identity import generate_key, load_site_key, sign
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import Facts
from peer_sync.names import manifest_name, signature_name
from peer_sync.server.embedded import Server
from peer_sync.site import Site, load_site
from peer_sync.transport.folder import FolderTransport

PLANS = "a" * 64
SCHEMA = "b" * 64
SIZES = {"float16": 700, "float32": 1400}
FACTS = Facts(
    round=1,
    epoch=50,
    plans_digest=PLANS,
    schema_digest=SCHEMA,
    dtype="float16",
    labelled=("brainstem", "parotid"),
    cases=12,
    dice={"brainstem": 0.81, "parotid": 0.7},
)


_given: set[int] = set()


def free_port() -> int:
    """A port of this machine that nobody listens on, and that this process was not given before."""
    (port,) = free_ports(1)
    if port in _given:
        return free_port()
    _given.add(port)
    return port


def federation_text(members: list[str], **changes: object) -> str:
    """federation.toml with the given [[sites]] tables."""
    settings = {"name": '"demo"', "seed": 7, "plans_digest": f'"{PLANS}"', **changes}
    return "\n".join(
        [*(f"{key} = {value}" for key, value in settings.items() if value is not None), *members]
    )


def member_text(name: str, public_key: str, address: str, **more: str) -> str:
    """One [[sites]] table."""
    values = {"name": name, "public_key": public_key, "address": address, **more}
    return "\n".join(["[[sites]]", *(f'{key} = "{value}"' for key, value in values.items())])


def build_sites(
    folder: Path, names: tuple[str, ...] = ("north", "south"), served: bool = False
) -> dict[str, Site]:
    """Sites that know each other, in ``folder``; ``served`` gives each an embedded server."""
    members, texts = [], {}
    for name in names:
        public = generate_key(folder / "keys" / name)
        text = f'site = "{name}"\nprivate_key = "keys/{name}"\nfolder = "{name}"\n'
        text += 'federation = "federation.toml"\n'
        if served:
            host, port = generate_key(folder / "keys" / f"{name}_host"), free_port()
            members.append(member_text(name, public, f"sftp://127.0.0.1:{port}", host_key=host))
            text += f'listen = "127.0.0.1:{port}"\nhost_key = "keys/{name}_host"\n'
        else:
            members.append(member_text(name, public, f"folder:{name}/outbox"))
        texts[name] = text
    (folder / "federation.toml").write_text(federation_text(members))
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return {name: load_site(folder / f"{name}.toml") for name in names}


def write_payload(folder: Path, content: bytes = b"weights" * 100) -> Path:
    """A file to offer."""
    path = folder / "payload.tmp"
    path.write_bytes(content)
    return path


def offer(mailbox: Mailbox, content: bytes = b"weights" * 100, **facts: object):
    """Offer ``content``; returns the manifest."""
    return mailbox.offer(write_payload(mailbox.site.folder, content), replace(FACTS, **facts))


def collect(mailbox: Mailbox, peer: Mailbox, round: int = 1):
    """Collect from a peer's outbox on this machine."""
    return mailbox.collect(peer.site.name, FolderTransport(peer.outbox), PLANS, SCHEMA, SIZES, round)


def republish(mailbox: Mailbox, manifest, signer: Path | None = None, sequence: int | None = None) -> None:
    """Put a changed manifest into the outbox, properly signed, under its own or another sequence."""
    data = manifest.to_bytes()
    sequence = manifest.sequence if sequence is None else sequence
    key = load_site_key(signer or mailbox.site.private_key)
    (mailbox.outbox / signature_name(sequence)).write_bytes(sign(key, data))
    (mailbox.outbox / manifest_name(sequence)).write_bytes(data)


@contextmanager
def running_server(server: Server) -> Iterator[Server]:
    """Serve in a thread until the block ends."""
    reader, writer = os.pipe()
    thread = threading.Thread(target=server.serve, args=([reader],), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        os.close(writer)
        thread.join(60)
        os.close(reader)


T = TypeVar("T")


def wait_for(look: Callable[[], T], seconds: float = 60) -> T:
    """The first true answer of ``look``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def facts_bytes(mailbox: Mailbox, sequence: int = 1) -> int:
    """Size of an offer's manifest and signature together."""
    names = (manifest_name(sequence), signature_name(sequence))
    return sum((mailbox.outbox / name).stat().st_size for name in names)


class Cut(FolderTransport):
    """Ends after so many bytes of a payload, once for each of ``sizes``."""

    def __init__(self, path: Path, *sizes: int) -> None:
        super().__init__(path)
        self.sizes = list(sizes)

    def get(self, name: str, target: Path, max_bytes: int) -> int:
        if name.endswith("safetensors") and self.sizes:
            target.write_bytes((self.path / name).read_bytes()[: self.sizes.pop(0)])
            raise TransportError("connection lost")
        return super().get(name, target, max_bytes)


class Noted(FolderTransport):
    """A folder that counts how often it was asked."""

    asked = 0

    def names(self) -> list[str]:
        self.asked += 1
        return super().names()


class Hanging(FolderTransport):
    """Never answers, until it is closed."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.asked, self.closed = threading.Event(), threading.Event()

    def names(self) -> list[str]:
        self.asked.set()
        self.closed.wait(120)
        raise TransportError("cannot list: expected an answer, found the end")

    def close(self) -> None:
        self.closed.set()
