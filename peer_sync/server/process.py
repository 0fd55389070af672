"""The embedded server's process, seen from the training."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from peer_sync.errors import ConfigError
from peer_sync.site import Site

START_SECONDS = 30.0
GREETING = "listening on "
SERVED = 3
"""Exit code of a server that found another one at work."""


class ServedError(ConfigError):
    """Another process serves this outbox already."""


class ServerProcess:
    """Starts the server and ends it; it also ends by itself when this process does.

    Raises:
        ServedError: another process serves this outbox.
        ConfigError: it did not start; message and hint are the server's own.
    """

    def __init__(self, site: Site) -> None:
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
        errors = site.folder / "state" / "server.err"
        errors.parent.mkdir(parents=True, exist_ok=True)
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "peer_sync.server", str(site.path), "--parent", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        greeting = self._greeting()
        if not greeting.startswith(GREETING):
            self.stop()
            raise _failed(site, errors, self._process.returncode)
        self.address = greeting.removeprefix(GREETING).strip()

    @classmethod
    def start_unless_served(cls, site: Site) -> ServerProcess | None:
        """Start the server; None when another process, such as ``nnunet-gml serve``, serves the outbox.

        Raises:
            ConfigError: it did not start for another reason.
        """
        try:
            return cls(site)
        except ServedError:
            return None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def stop(self, timeout_seconds: float = 10) -> None:
        """End it: close its standard input, then terminate, then kill."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        for end in (process.terminate, process.kill, lambda: None):
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                end()

    def _greeting(self) -> str:
        """The first line, or what came until the server ended or the time was over."""
        stdout = self._process.stdout
        deadline, text = time.monotonic() + START_SECONDS, b""
        while stdout is not None and not text.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(stdout.fileno(), 4096) if ready else b""
            if not piece:
                break
            text += piece
        return text.decode(errors="replace")


def _failed(site: Site, errors: Path, code: int | None) -> ConfigError:
    lines = errors.read_text(errors="replace").splitlines()
    found = {
        kind: line.removeprefix(f"{kind}: ")
        for line in lines
        for kind in ("error", "hint")
        if line.startswith(kind)
    }
    message = found.get("error", f"it wrote: {lines[-1] if lines else 'nothing'}")
    hint = found.get("hint", f"all it wrote is in {errors}")
    if code == SERVED:
        return ServedError(message, hint)
    return ConfigError(f"the server of site {site.name!r} did not start: {message}", hint)
