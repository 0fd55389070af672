"""Sees to it, for a training, that somebody serves the outbox."""

from __future__ import annotations

from peer_sync.server.process import ServerProcess
from peer_sync.site import Site

ELSEWHERE = "another process, such as nnunet-gml serve, serves the outbox; this training starts no server"
TAKEN_OVER = "the other server of this outbox has ended; this training serves it now"
AGAIN = "the server of this site had ended; it is started again"


class Keeper:
    """A server process of ours, unless there is no ``listen`` in site.toml or another process serves."""

    def __init__(self, site: Site) -> None:
        self.process: ServerProcess | None = None
        self._site = site
        self._elsewhere = False

    def check(self) -> str:
        """Start the server where nobody serves; returns what has changed, or an empty text.

        Raises:
            ConfigError: it cannot start; the next call tries again.
            OSError: likewise.
        """
        before = self.process
        if self._site.listen is None or (before is not None and before.running):
            return ""
        if before is not None:
            before.stop(0)
        self.process = ServerProcess.start_unless_served(self._site)
        was_elsewhere, self._elsewhere = self._elsewhere, self.process is None
        if self._elsewhere:
            return "" if was_elsewhere else ELSEWHERE
        if was_elsewhere:
            return TAKEN_OVER
        return AGAIN if before is not None else ""

    def stop(self, timeout_seconds: float = 10) -> None:
        """End our process, if there is one."""
        if self.process is not None:
            self.process.stop(timeout_seconds)
