"""What went wrong on the way to a peer, in the words of this package: foreign errors end here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from peer_sync.errors import LoginError, NotFoundError, PeerSyncError, TransportError, quoted
from peer_sync.transport.hosts import Host

FORBIDDEN = paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
CLOSED = "the connection was closed"


class HostError(Exception):
    """Something failed, and it is known at which host.

    Args:
        host: the server, or the jump host.
        cause: the error itself.
    """

    def __init__(self, host: Host, cause: Exception) -> None:
        super().__init__(cause)
        self.host = host
        self.cause = cause


@contextmanager
def at(host: Host) -> Iterator[None]:
    """Whatever fails in this block fails at ``host``. Raises `HostError`."""
    try:
        yield
    except PeerSyncError:
        raise
    # The library raises here whatever its own thread met: errors of its cryptography too.
    except Exception as error:
        raise HostError(host, error) from error


def translated(error: Exception, doing: str, host: Host, finding: str) -> TransportError:
    """The error to raise instead of a foreign one.

    Args:
        error: what was raised.
        doing: what was tried.
        host: where.
        finding: why the watchdog cut the connection; empty if it did not.
    """
    where = f"cannot {doing} at {host}"
    if finding:
        return TransportError(f"{where}: {finding}", hint="the way to the peer is slow or stuck")
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return NotFoundError(f"{where}: there is none", hint="not published, or gone")
    if isinstance(error, paramiko.AuthenticationException):
        return LoginError(
            f"{where}: expected a login as {host.user!r}, found it refused: {quoted(error)}",
            hint="that server does not know this site's key, or not under this name",
        )
    if isinstance(error, paramiko.ChannelException) and error.code == FORBIDDEN:
        return TransportError(
            f"{where}: expected a way on from there, found it forbidden: {quoted(error.text)}",
            hint="its sshd_config has to allow it: AllowTcpForwarding, PermitOpen",
        )
    return TransportError(
        f"{where}: expected an answer, found {_reason(error)}",
        hint="is the peer's server running, and does the network let us through?",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, TimeoutError):
        return "silence"
    if isinstance(error, paramiko.ChannelException):
        return quoted(error.text)
    return quoted(str(error) or type(error).__name__)
