"""Print what the ledger says about every peer: when it was last heard of, what came, what went wrong.

Exits with 1 when for longer than --max-age nothing was heard from all peers together; one that was heard
is enough. Peers that were silent for longer are marked, and so are those whose newest offer is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nnunet_gml.commands.named_site import add_named_site, named_site
from nnunet_gml.commands.options import age

if TYPE_CHECKING:
    from peer_sync.site import Site
    from peer_sync.status import OwnStatus, PeerStatus, Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnunet-gml status``."""
    add_named_site(parser)
    parser.add_argument(
        "--max-age",
        type=age,
        metavar="AGE",
        help="exit with 1 when no peer at all was heard of for longer: 90m, 12h, 2d",
    )
    parser.add_argument("--json", action="store_true", help="the same facts for a program")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the ledger, print it, and judge the silence."""
    from peer_sync.status import read_status

    site = named_site(args.site)
    status, now = read_status(site), datetime.now(UTC)
    if args.json:
        sys.stdout.write(json.dumps(facts(site, status, now, args.max_age), indent=2) + "\n")
    else:
        from rich.console import Console

        from nnunet_gml.commands import status_table

        status_table.show(Console(highlight=False), site, status, now, args.max_age)
    return _judge(status, now, args.max_age)


def facts(site: Site, status: Status, now: datetime, max_age: timedelta | None) -> dict[str, Any]:
    """Everything that the table shows, as JSON can hold it; times are ISO in UTC, ages in seconds."""
    return {
        "site": site.name,
        "federation": site.federation.name,
        "time": now.isoformat(timespec="seconds"),
        "silent": is_silent(status.last_seen, now, max_age),
        "ledger": {"lines": status.lines, "broken": status.broken, "former": dict(status.former)},
        "own": _own_facts(status.own, now),
        "peers": [_peer_facts(peer, site, now, max_age) for peer in status.peers.values()],
    }


def is_silent(last_seen: datetime | None, now: datetime, max_age: timedelta | None) -> bool:
    """Whether nothing was heard for longer than allowed; never, without a limit."""
    return max_age is not None and (last_seen is None or now - last_seen > max_age)


def is_stale(peer: PeerStatus, site: Site, now: datetime) -> bool:
    """Whether the peer's newest offer is older than ``stale_days`` of the site."""
    return peer.offered is not None and now - peer.offered > timedelta(days=site.stale_days)


def _judge(status: Status, now: datetime, max_age: timedelta | None) -> int:
    from peer_sync.ages import age_words, ago

    last_seen = status.last_seen
    if max_age is None or not is_silent(last_seen, now, max_age):
        return 0
    last = ago(now - last_seen) if last_seen else "never"
    sys.stderr.write(
        f"nnunet-gml: nothing was heard from any peer for more than {age_words(max_age)}; last: {last}\n"
    )
    return 1


def _peer_facts(peer: PeerStatus, site: Site, now: datetime, max_age: timedelta | None) -> dict[str, Any]:
    counted = (
        "last_verdict",
        "round",
        "sequence",
        "accepted",
        "refused",
        "failed",
        "received_bytes",
        "trust",
    )
    return {
        "peer": peer.name,
        "last_seen": _iso(peer.last_seen),
        "age_seconds": _seconds(peer.last_seen, now),
        **{name: getattr(peer, name) for name in counted},
        "offered": _iso(peer.offered),
        "stale": is_stale(peer, site, now),
        "silent": is_silent(peer.last_seen, now, max_age),
        "problem": _problem_facts(peer),
    }


def _own_facts(own: OwnStatus, now: datetime) -> dict[str, Any]:
    return {
        "offers": own.offers,
        "failed": own.failed,
        "sequence": own.sequence,
        "offered_bytes": own.offered_bytes,
        "last_offer": _iso(own.last_offer),
        "age_seconds": _seconds(own.last_offer, now),
        "last_publish": _iso(own.last_publish),
        "problem": _problem_facts(own),
    }


def _problem_facts(status: PeerStatus | OwnStatus) -> dict[str, str] | None:
    problem = status.problem
    if problem is None:
        return None
    return {"time": problem.time.isoformat(), "rule": problem.rule, "message": problem.message}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")


def _seconds(moment: datetime | None, now: datetime) -> int | None:
    return None if moment is None else round((now - moment).total_seconds())
