"""Which checks belong in a row, so that one that fails spares us those behind it."""

from __future__ import annotations

from dataclasses import replace

from peer_sync import names
from peer_sync.doctor import incoming, reach
from peer_sync.doctor.doors import Door, peer_door, relay_door
from peer_sync.doctor.findings import (
    FAILED,
    INCOMING,
    OK,
    OUTGOING,
    SELF,
    WARNING,
    Check,
    Finding,
    Result,
    run_checks,
)
from peer_sync.doctor.offers import Offer
from peer_sync.doctor.ourselves import Ourselves
from peer_sync.doctor.outgoing import Outgoing
from peer_sync.site import Site
from peer_sync.transport.folder import FolderTransport

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
LOCAL_SECONDS = 5.0
HAIRPIN = (
    "Seen from this machine itself: in some networks nobody reaches their own outside address, and the "
    "doctor of a peer knows better. "
)
FORGIVEN = {
    "own name": HAIRPIN,
    "own port": HAIRPIN,
    "own greeting": HAIRPIN,
    "own login": HAIRPIN,
    "own folder": "",
}
"""What may fail towards our own address though peers succeed, and a word about it."""


def about_peer(site: Site, peer: str) -> list[Finding]:
    """Both ways between us and a peer."""
    door = peer_door(site, peer)
    outgoing = Outgoing(door)
    try:
        checks = outgoing.checks() + Offer(site, peer, door.transport).checks()
        findings = run_checks(peer, OUTGOING, checks)
    finally:
        outgoing.close()
    login = Check("last login", lambda: incoming.last_login(site, peer))
    return findings + run_checks(peer, INCOMING, [login])


def about_ourselves(site: Site) -> list[Finding]:
    """This installation, our newest offer, and our outbox as others see it."""
    offer = Offer(site, site.name, FolderTransport(site.folder / "outbox"))
    findings = run_checks(site.name, SELF, Ourselves(site).checks())
    findings += run_checks(site.name, SELF, offer.own_checks())
    findings += map(_forgiving, _seen(site, "own", peer_door(site, site.name)))
    relay = relay_door(site)
    return findings + (_seen(site, "relay", relay) if relay else [])


def _seen(site: Site, prefix: str, door: Door) -> list[Finding]:
    """Our own outbox through a door."""
    outgoing = Outgoing(door)
    checks = [
        *(check for check in outgoing.checks() if check.name != "round trip"),
        Check("newest", lambda: _same(site, outgoing.newest)),
    ]
    named = [replace(check, name=f"{prefix} {check.name}") for check in checks]
    if prefix == "own" and not door.is_folder:
        named.insert(0, Check("server", lambda: _server(site)))
    try:
        return run_checks(site.name, SELF, named)
    finally:
        outgoing.close()


def _server(site: Site) -> Result:
    """Whether our built-in server listens, asked on this machine."""
    if site.listen is None:
        return Result(OK, "none of our own: something else serves the outbox")
    host, port = site.listen
    found = reach.connect([LOOPBACK.get(host, host)], port, LOCAL_SECONDS)
    if isinstance(found, reach.Hit):
        found.sock.close()
        return Result(OK, f"listens on {host} port {port}")
    advice = (
        f"Nothing listens on {host} port {port} of this machine, so no peer can read our offers. The server "
        "runs while a training does; nnunet-gml serve runs it without one."
    )
    return Result(WARNING, f"{host} port {port}: {found[0].words}", "a server", advice, ends=True)


def _same(site: Site, there: int) -> Result:
    """Whether others see the offer that we made last."""
    here = names.newest_whole(path.name for path in (site.folder / "outbox").glob("*"))
    if there == here:
        return Result(OK, f"number {here}, as in our outbox" if here else "none, as in our outbox")
    expected = f"number {here}, the newest in our outbox"
    advice = (
        f"Peers see the offer number {there} of ours as the newest, expected {here}. Please look whether "
        "what copies our outbox (nnunet-gml sync, a synchronised folder) still runs, and whether another "
        "installation of this site uses the same place."
    )
    return Result(FAILED if there > here else WARNING, f"number {there}", expected, advice)


def _forgiving(finding: Finding) -> Finding:
    """Failures that a peer need not have."""
    if finding.verdict != FAILED or finding.check not in FORGIVEN:
        return finding
    return replace(finding, verdict=WARNING, advice=FORGIVEN[finding.check] + finding.advice)
