"""What a training under way can take of a federation.toml that was changed, and what it cannot."""

from __future__ import annotations

from peer_sync.errors import ConfigError
from peer_sync.site import Site


def check_change(old: Site, new: Site, plans_digest: str) -> None:
    """Refuse a change of what this training has built itself upon.

    Args:
        old: this site as it is.
        new: the same with the changed file.
        plans_digest: of the plans in use. That the others have agreed on just these may be news.

    Raises:
        ConfigError: seed, classes, agreed plans, or the classes contoured here are others.
    """
    was, now = old.federation, new.federation
    for name, before, after in (
        ("seed", was.seed, now.seed),
        ("classes", was.classes, now.classes),
        (f"labelled of site {old.name}", old.member.labelled, new.member.labelled),
        ("plans_digest", plans_digest, now.plans_digest or plans_digest),
    ):
        if before != after:
            raise ConfigError(
                f"{name} is {_told(after)}, but this training began with {_told(before)}",
                hint="a training that is begun anew takes it",
            )


def _told(value: object) -> str:
    if value is None:
        return "not stated"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
