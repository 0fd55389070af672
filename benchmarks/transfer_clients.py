"""The clients that the transfer benchmark compares, each a process whose connection stays open."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import measuring

WORKER = Path(__file__).with_name("transfer_worker.py")
REPOSITORY = Path(__file__).resolve().parents[1]
LABELS = {
    "sftp": "OpenSSH `sftp` (reference)",
    "sftp-gcm": "OpenSSH `sftp`, aes128-gcm",
    "shipped": "paramiko as shipped",
    "paramiko": "ours",
    "ssh": 'ours, `carrier = "ssh"`',
}
REFERENCE, SHIPPED, OURS, OURS_SSH = "sftp", "shipped", "paramiko", "ssh"
FENCE = "Remote working directory"


@dataclass(frozen=True)
class Place:
    """A server, a folder on it, and who may log in.

    Attributes:
        port: on 127.0.0.1.
        user: login name.
        host_key: the server's public line.
        key: private key file.
        folder: the remote folder, as the client has to call it; empty for the only one.
    """

    port: int
    user: str
    host_key: str
    key: str
    folder: str


@dataclass(frozen=True)
class Cost:
    """What one transfer took.

    Attributes:
        seconds: from the order to the answer.
        cpu_seconds: of the client's processes.
        rekeys: key exchanges within it; None where nobody can count them.
    """

    seconds: float
    cpu_seconds: float
    rekeys: int | None


class Client:
    """A process with an open connection; one order at a time.

    Args:
        kind: a key of `LABELS`.
        place: the server.
        scratch: folder for what the client needs.
    """

    def __init__(self, kind: str, place: Place, scratch: Path) -> None:
        self.kind = kind
        self._place = place
        self._speaks_sftp = kind.startswith("sftp")
        command = sftp_command(place, scratch, kind) if self._speaks_sftp else worker_command(kind, place)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        if self._speaks_sftp:
            self._tell("pwd")
        self._answer()
        self._baseline_mib = measuring.memory_mib(self._process.pid, "VmRSS")

    def start(self, verb: str, path: Path, name: str) -> None:
        """Give the order: ``put`` or ``get`` between a local file and a remote name."""
        if self._speaks_sftp:
            remote = f"{self._place.folder}/{name}" if self._place.folder else name
            self._tell(f"put {path} {remote}\npwd" if verb == "put" else f"get {remote} {path}\npwd")
        else:
            self._tell(json.dumps({"verb": verb, "path": str(path), "name": name}))

    def finish(self) -> int | None:
        """Wait for the answer; returns the number of rekeys, if known."""
        answer = self._answer()
        return answer["rekeys"] if self.kind in (OURS, SHIPPED) else None

    def move(self, verb: str, path: Path, name: str) -> Cost:
        """One transfer from order to answer."""
        cpu = measuring.cpu_seconds(self._process.pid)
        started = time.monotonic()
        self.start(verb, path, name)
        rekeys = self.finish()
        seconds = time.monotonic() - started
        return Cost(seconds, measuring.cpu_seconds(self._process.pid) - cpu, rekeys)

    def grown_mib(self) -> float:
        """How far the memory's high-water mark is above what the connected, idle client had."""
        return measuring.memory_mib(self._process.pid, "VmHWM") - self._baseline_mib

    def close(self) -> None:
        """End the process."""
        self._stream("stdin").close()
        self._stream("stdout").close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, text: str) -> None:
        stream = self._stream("stdin")
        stream.write(text + "\n")
        stream.flush()

    def _answer(self) -> dict[str, Any]:
        """What the client said at the end of an order. Raises RuntimeError when it ended instead."""
        for line in self._stream("stdout"):
            if not self._speaks_sftp:
                return dict(json.loads(line))
            if line.startswith(FENCE):
                return {}
        raise RuntimeError(f"{LABELS[self.kind]} ended with {self._process.wait()}")

    def _stream(self, name: str) -> IO[str]:
        stream: IO[str] = getattr(self._process, name)
        return stream


def sftp_command(place: Place, scratch: Path, kind: str = REFERENCE) -> list[str]:
    """OpenSSH's own client, reading its orders from standard input."""
    known = scratch / f"known-{place.port}"
    known.write_text(f"[127.0.0.1]:{place.port} {place.host_key}\n")
    options = {
        "UserKnownHostsFile": known,
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        **({"Ciphers": "aes128-gcm@openssh.com"} if kind == "sftp-gcm" else {}),
    }
    return [
        *("sftp", "-q", "-b", "-", "-F", "none", "-P", str(place.port), "-i", place.key),
        *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        f"{place.user}@127.0.0.1",
    ]


def worker_command(carrier: str, place: Place) -> list[str]:
    """A process of this benchmark with paramiko or with our transport."""
    return [sys.executable, str(WORKER), json.dumps({**asdict(place), "carrier": carrier})]
