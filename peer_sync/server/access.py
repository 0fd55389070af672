"""The access log: who came, what was read, who was sent away. Nobody can flood it."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FILE_BYTES = 1 << 20
OLD_FILES = 4
MAX_LINE_CHARACTERS = 500
LINES_AT_ONCE = 100
SECONDS_PER_LINE = 5.0
STRANGER = "stranger"
OURSELVES = "(this site)"
TIME = "%Y-%m-%dT%H:%M:%SZ"
SSH_LOGGERS = ("paramiko", "peer_sync.ssh")


def note(level: int, address: str, peer: str, text: str, *values: object) -> None:
    """One line about a connection; ``peer`` is empty before a login."""
    log.log(level, f"%s %s: {text}", address, peer or STRANGER, *values, extra={"peer": peer})


def tell(level: int, text: str) -> None:
    """One line about the server itself; no stranger can use up its quota."""
    log.log(level, "%s", text, extra={"peer": OURSELVES})


@dataclass
class _Account:
    """How many lines about one peer, or about all strangers together, may be written now."""

    lines: float
    since: float
    left_out: int = 0


class Quota(logging.Filter):
    """Lets a burst of lines through for each peer, then a trickle, and says how many it left out.

    All strangers together count as one peer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._guard = threading.Lock()
        self._accounts: dict[str, _Account] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide once for each line, however many handlers ask."""
        with self._guard:
            facts = vars(record)
            if "allowed" not in facts:
                facts["allowed"] = self._allow(record)
            return bool(facts["allowed"])

    def _allow(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        account = self._accounts.setdefault(getattr(record, "peer", ""), _Account(LINES_AT_ONCE, now))
        account.lines = min(LINES_AT_ONCE, account.lines + (now - account.since) / SECONDS_PER_LINE)
        account.since = now
        if account.lines < 1:
            account.left_out += 1
            return False
        account.lines -= 1
        if account.left_out:
            record.msg = f"{record.msg} ({account.left_out} lines before this one were left out)"
            account.left_out = 0
        return True


class OneLine(logging.Formatter):
    """Whatever strangers sent stays on its line. Times are UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Escape and cut."""
        return super().format(record)[:MAX_LINE_CHARACTERS].encode("unicode_escape").decode("ascii")


def write_to(path: Path, console: bool) -> None:
    """Log into ``path``, of which four older files are kept, and the main lines on standard error, too."""
    file = logging.handlers.RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=OLD_FILES)
    handlers: list[logging.Handler] = [file]
    if console:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setLevel(logging.INFO)
    quota = Quota()
    for handler in handlers:
        handler.addFilter(quota)
        handler.setFormatter(OneLine("%(asctime)s %(message)s", TIME))
    logging.basicConfig(handlers=handlers, level=logging.INFO)
    log.setLevel(logging.DEBUG)
    for name in SSH_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.raiseExceptions = False
