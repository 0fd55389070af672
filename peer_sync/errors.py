"""What can go wrong between sites. The type says whether trying again helps."""

from __future__ import annotations

MAX_QUOTED_CHARACTERS = 200


class PeerSyncError(Exception):
    """Every error this package raises on purpose.

    Args:
        message: what, where, found, expected; starts small, no full stop.
        hint: what to do now; may be empty.

    Attributes:
        transferred_bytes: what had crossed the network when an attempt to collect ended with it.
    """

    transferred_bytes: int = 0

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(PeerSyncError):
    """A file or setting of this site is wrong: a person has to change it."""


class TransportError(PeerSyncError):
    """The way to the peer failed: later it may work."""


class NotFoundError(TransportError):
    """The peer does not have it, or has nothing new: later it may."""


class LoginError(TransportError):
    """The server answers, but does not let this site in: later it may."""


class RejectedError(PeerSyncError):
    """The peer's offer breaks a rule: trying again never helps.

    Args:
        rule: name of the rule, as in the refusals table of PROTOCOL.md.
        message: what was expected and what was found.
        hint: what to do now; may be empty.
    """

    def __init__(self, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.rule = rule


def quoted(text: object) -> str:
    """A stranger's text for a message: at most 200 characters, and nothing that a log would obey."""
    try:
        return repr(str(text)[:MAX_QUOTED_CHARACTERS])
    except RecursionError:
        return f"a {type(text).__name__} of too many levels"
