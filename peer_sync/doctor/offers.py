"""Judges the newest offer in an outbox by the rules of the protocol, and keeps nothing of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

from peer_sync.address import Patience
from peer_sync.ages import age_words, ago
from peer_sync.doctor import judging
from peer_sync.doctor.findings import FAILED, OK, UNKNOWN, WARNING, Check, Result
from peer_sync.errors import NotFoundError, PeerSyncError, RejectedError
from peer_sync.identity import check_site_key
from peer_sync.manifest import Manifest
from peer_sync.site import Site
from peer_sync.transport import Transport

SAMPLE_BYTES = 1 << 20
MAX_SKEW = timedelta(minutes=5)
TELLING_SECONDS = 1.0
"""A transfer that is over sooner was mostly waiting for answers."""
TICK_SECONDS, MAX_TICK_SECONDS = 1.1, 10


@runtime_checkable
class TellsTime(Protocol):
    """A way to a server whose folder has a time."""

    def modified(self) -> int | None:
        """When the folder was changed, in seconds since 1970; our own server answers with its time now."""


@dataclass
class Offer:
    """The newest offer in an outbox, check by check.

    Args:
        site: who looks; its federation has the keys.
        owner: whose outbox it is; may be the site itself.
        transport: the way there.
        manifest: set by the check ``manifest``.
    """

    site: Site
    owner: str
    transport: Transport
    manifest: Manifest | None = None

    def checks(self) -> list[Check]:
        """All of them, in order."""
        cut = self.transport.close
        known: tuple[tuple[str, Callable[[Manifest], Result]], ...] = (
            ("plans", self._plans),
            ("age", self._age),
            ("read speed", self._speed),
        )
        return [
            Check("clock", self._clock, cut),
            Check("manifest", self._manifest, cut),
            *(Check(name, self._with_manifest(work), cut) for name, work in known),
        ]

    def own_checks(self) -> list[Check]:
        """Those that make sense for an offer of our own, in our own outbox."""
        kept = [check for check in self.checks() if check.name in ("manifest", "plans", "age")]
        return [*kept, Check("payload", self._with_manifest(self._payload))]

    def _payload(self, found: Manifest) -> Result:
        path = self.site.folder / "outbox" / found.payload
        size = path.stat().st_size if path.is_file() else 0
        if size == found.payload_bytes:
            return Result(OK, f"{size} bytes, as the manifest says")
        advice = f"{path} has {size} bytes, expected {found.payload_bytes}. The next round offers a new one."
        return Result(FAILED, f"{size} bytes", f"{found.payload_bytes} bytes", advice)

    def _with_manifest(self, work: Callable[[Manifest], Result]) -> Callable[[], Result]:
        def run() -> Result:
            if self.manifest is None:
                return Result(UNKNOWN, "no manifest")
            return work(self.manifest)

        return run

    def _manifest(self) -> Result:
        expected = f"signed by site {self.owner!r}, for this federation, and for us"
        try:
            self.manifest = judging.newest(self.site, self.owner, self.transport)
        except NotFoundError as error:
            advice = (
                f"Site {self.owner!r} offers nothing yet ({error}). Before its first training that is as it "
                "should be: the first offer comes when its warm-up ends."
            )
            return Result(WARNING, "nothing is offered yet", advice=advice, ends=True)
        except RejectedError as error:
            advice = (
                f"The newest offer of site {self.owner!r} would be refused by rule {error.rule!r}: {error}. "
                f"{error.hint or 'Please tell them'}."
            )
            return Result(FAILED, str(error), expected, advice, ends=True)
        except PeerSyncError as error:
            return Result(FAILED, str(error), expected, f"{error}. {error.hint}.", ends=True)
        found = self.manifest
        size = f"{found.payload_bytes / 1e6:.1f} MB of {found.dtype}"
        words = f"number {found.sequence}, round {found.round}, {size}, signature fits"
        if found.encryption != "none" and self._cannot_decrypt():
            advice = (
                f"Site {self.owner!r} encrypts its weights, and our key is only in ssh-agent, which cannot "
                "decrypt. Please give this site a key file without a passphrase, or ask them not to encrypt."
            )
            return Result(WARNING, f"{words}; encrypted", "weights that we can read", advice)
        return Result(OK, words)

    def _cannot_decrypt(self) -> bool:
        member = self.site.member
        is_peer = self.owner != member.name
        return is_peer and check_site_key(self.site.private_key, member.public_key)[1]

    def _plans(self, found: Manifest) -> Result:
        expected = self.site.federation.plans_digest
        if not expected:
            return Result(UNKNOWN, f"digest {found.plans_digest[:12]}..., federation.toml has none yet")
        if found.plans_digest == expected:
            return Result(OK, f"digest {expected[:12]}..., as in federation.toml")
        return Result(
            FAILED,
            f"digest {found.plans_digest}",
            f"digest {expected}",
            f"Site {self.owner!r} trains with other plans than federation.toml states: expected plans digest "
            f"{expected}, found {found.plans_digest}. Please compare: nnunet-gml plans digest "
            "$nnUNet_preprocessed/DATASET CONFIGURATION, at both sites.",
        )

    def _age(self, found: Manifest) -> Result:
        now, limit = datetime.now(UTC), self.site.stale_days
        ahead = found.created_at - now
        if ahead > MAX_SKEW:
            return self._other_clock(ahead, "made in the future: its clock is ")
        made = f"made {ago(now - found.created_at)}"
        expected = f"less than {limit} d old, and not expired"
        if found.expires_at <= now:
            advice = (
                f"The newest offer of site {self.owner!r} expired {ago(now - found.expires_at)} and would be "
                "refused. Please ask whether its training still runs, and compare the clocks of both sides."
            )
            return Result(FAILED, f"{made}, expired {ago(now - found.expires_at)}", expected, advice)
        if now - found.created_at > timedelta(days=limit):
            advice = (
                f"The newest offer of site {self.owner!r} is stale. Please ask whether its training still "
                "runs, and whether something between us (a relay, a synchronised folder) has stopped."
            )
            return Result(WARNING, f"{made}: stale", expected, advice)
        return Result(OK, f"{made}, expires in {age_words(found.expires_at - now)}")

    def _clock(self) -> Result:
        skew = self._skew()
        if skew is None:
            return Result(UNKNOWN, "this server does not tell its clock")
        if abs(skew) <= MAX_SKEW:
            return Result(OK, f"{abs(skew).total_seconds():.0f} s apart")
        return self._other_clock(skew)

    def _other_clock(self, skew: timedelta, before: str = "") -> Result:
        """The verdict on a clock that is not as ours."""
        words = f"{age_words(abs(skew))} {'ahead of' if skew > timedelta() else 'behind'} ours"
        advice = (
            f"The clock of site {self.owner!r} is {words} (here it is {datetime.now(UTC):%Y-%m-%d %H:%M:%S} "
            "UTC). Please compare both machines with a time server (NTP)."
        )
        return Result(WARNING, f"{before}{words}", f"apart by less than {age_words(MAX_SKEW)}", advice)

    def _skew(self) -> timedelta | None:
        """How far the server's clock is ahead of ours, to about a second; None when it does not tell.

        Our own server gives its time as that of the folder: it is a clock because it runs.
        """
        if not isinstance(self.transport, TellsTime):
            return None
        with suppress(PeerSyncError):
            before = self.transport.modified()
            time.sleep(TICK_SECONDS)
            after, now = self.transport.modified(), time.time()
            if before is not None and after is not None and 0 < after - before <= MAX_TICK_SECONDS:
                return timedelta(seconds=round(after - now))
        return None

    def _speed(self, found: Manifest) -> Result:
        least = Patience().min_bytes_per_second
        expected = f"at least {least / 1024:.0f} KiB/s"
        try:
            with _rest(found) as (target, size):
                started = time.monotonic()
                self.transport.get(found.payload, target, found.payload_bytes)
                seconds = max(time.monotonic() - started, 1e-3)
        except (PeerSyncError, OSError) as error:
            return Result(WARNING, str(error), expected, f"The weights could not be read: {error}.")
        rate = size / seconds
        words = f"{size / 1e6:.2f} MB in {seconds:.2f} s, {rate / 1e6:.1f} MB/s"
        if rate >= least or seconds < TELLING_SECONDS:
            return Result(OK, words)
        advice = (
            f"Reading from site {self.owner!r} is so slow that transfers will be cut off: {words}, "
            f"expected {expected}. Please look for a limit or an overloaded line between us."
        )
        return Result(WARNING, words, expected, advice)


@contextmanager
def _rest(found: Manifest) -> Iterator[tuple[Path, int]]:
    """A file that stands for all but the end of a payload, and how much is left to fetch."""
    with tempfile.TemporaryDirectory(prefix="nnunet-gml-") as folder:
        target = Path(folder) / "payload"
        size = min(SAMPLE_BYTES, found.payload_bytes)
        with target.open("wb") as file:
            file.truncate(found.payload_bytes - size)
        yield target, size
