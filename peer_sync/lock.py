"""One process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

from peer_sync.errors import ConfigError

_held: set[Path] = set()
_guard = threading.Lock()


class Lock:
    """A record lock on a file: it ends with the process that took it, however that ends.

    A child that was forked meanwhile does not hold it, unlike with flock: nnU-Net's
    workers can outlive a training that was killed. As with every POSIX lock, whoever
    opens and closes the file in this process lets go of it: leave ``state/lock`` alone.

    Args:
        path: the file to lock; made when missing.

    Raises:
        ConfigError: somebody else holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        with _guard:
            if self.path in _held:
                raise self._busy()
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._descriptor)
                raise self._refused(error) from error
            _held.add(self.path)

    def release(self) -> None:
        """Let others have it; calling it again does nothing."""
        with _guard:
            if self.path in _held and self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                _held.discard(self.path)

    def _refused(self, error: OSError) -> ConfigError:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return self._busy()
        return ConfigError(
            f"cannot lock {self.path}: {error.strerror}",
            hint="the disk needs POSIX locks: NFS with its lock service, Lustre mounted with flock",
        )

    def _busy(self) -> ConfigError:
        return ConfigError(
            f"the folder {self.path.parent.parent} is used by another running training or sync",
            hint="wait until it ends, or stop it; each site needs a folder of its own",
        )
