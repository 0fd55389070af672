"""The rules an offer must keep. Bytes in, verdict out: nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from peer_sync import identity, manifest
from peer_sync.errors import RejectedError
from peer_sync.manifest import Manifest
from peer_sync.memory import Judged

MANIFEST_MAX_BYTES = 64 * 1024
SIGNATURE_MAX_BYTES = 4 * 1024
MAX_SEQUENCE_JUMP = 1_000_000


@dataclass(frozen=True)
class Expectation:
    """What this site knows before it reads an offer.

    Attributes:
        site: this site's name.
        peer: the site that was asked.
        public_key: that site's key.
        federation: digest of our federation file.
        federation_version: its version.
        plans_digest: digest of our plans.
        schema_digest: digest of our tensors' names and shapes.
        max_payload_bytes: the federation's limit.
        payload_bytes: exact size of a valid weights file, for each type.
        last: the newest offer of this peer that was judged.
        now: our clock.
        least_round: an offer of an earlier round is not wanted yet; 0 where any is welcome.
    """

    site: str
    peer: str
    public_key: str
    federation: str
    federation_version: int
    plans_digest: str
    schema_digest: str
    max_payload_bytes: int
    payload_bytes: Mapping[str, int]
    last: Judged
    now: datetime
    least_round: int = 0

    @property
    def takes_again(self) -> bool:
        """Whether the last offer is welcome once more.

        In step it is: a training that was killed after it took an offer, or that was overtaken by
        its peer, would otherwise wait for the peer's next round, in which the peer waits for us.
        """
        return self.least_round > 0 and self.last.is_accepted

    def once_more(self) -> Expectation:
        """The same, before the last offer was judged."""
        return replace(self, last=Judged())

    def for_last(self, sequence: int, data: bytes) -> Expectation:
        """What an offer must keep: where the last one is welcome once more and this is it, `once_more`."""
        return self.once_more() if self.takes_again and self.last.knows(sequence, data) else self

    def awaits(self, found: Manifest) -> bool:
        """Whether an offer is of a late enough round, and not yet judged or welcome once more."""
        last = self.for_last(found.sequence, found.to_bytes()).last
        return found.round >= self.least_round and found.sequence > last.sequence


def check_manifest(data: bytes, signature: bytes, listed_sequence: int, expected: Expectation) -> Manifest:
    """Judge manifest and signature, in the order of PROTOCOL.md.

    Raises:
        RejectedError: with the rule that failed.
    """
    found = check_signed(data, signature, expected)
    check_offer(found, listed_sequence, expected)
    return found


def check_signed(data: bytes, signature: bytes, expected: Expectation) -> Manifest:
    """The first rules, after which these facts are the peer's own words. Raises `RejectedError`."""
    _check_size("manifest", len(data), MANIFEST_MAX_BYTES)
    _check_size("signature", len(signature), SIGNATURE_MAX_BYTES)
    found = manifest.parse(data)
    _check_signature(data, signature, expected)
    return found


def check_offer(found: Manifest, listed_sequence: int, expected: Expectation) -> None:
    """The other rules: whether what the peer offers is for us. Raises `RejectedError`."""
    _check_federation(found, expected)
    _check_equal("site", "site", expected.peer, found.site)
    if expected.site not in found.recipients:
        raise RejectedError(
            "recipients", f"recipients: expected {expected.site!r} among them, found {found.recipients[:8]}"
        )
    _check_equal("plans", "digest of the plans", expected.plans_digest, found.plans_digest)
    _check_equal("schema", "digest of tensor names and shapes", expected.schema_digest, found.schema_digest)
    _check_expiry(found, expected.now)
    _check_sequence(found, listed_sequence, expected.last.sequence)
    _check_size("weights", found.payload_bytes, expected.max_payload_bytes)
    _check_exact_size(found, expected.payload_bytes)


def most_encrypted_bytes(found: Manifest) -> int:
    """Upper bound of a payload in the age format: its chunks' tags and a line or two per recipient."""
    return found.weights_bytes + found.weights_bytes // 2048 + 1024 * (4 + len(found.recipients))


def check_payload(found: Manifest, size_bytes: int, digest: str) -> None:
    """Judge the weights file by its size and hash.

    Raises:
        RejectedError: rule ``size`` or ``sha256``.
    """
    if size_bytes != found.payload_bytes:
        raise RejectedError("size", f"weights: expected {found.payload_bytes} bytes, found {size_bytes}")
    _check_equal("sha256", "SHA-256 of the weights", found.sha256, digest)


def check_opened(found: Manifest, size_bytes: int) -> None:
    """Judge decrypted weights by their size. Raises `RejectedError`, rule ``encryption``."""
    if size_bytes != found.weights_bytes:
        raise RejectedError(
            "encryption", f"weights: expected {found.weights_bytes} bytes when decrypted, found {size_bytes}"
        )


def _check_signature(data: bytes, signature: bytes, expected: Expectation) -> None:
    try:
        identity.verify(expected.public_key, data, signature)
    except RejectedError as error:
        raise RejectedError(
            error.rule,
            str(error),
            hint=f"if site {expected.peer!r} has a new key, a new federation.toml is needed everywhere "
            f"(ours is version {expected.federation_version})",
        ) from error


def _check_federation(found: Manifest, expected: Expectation) -> None:
    """Refuse an offer under another federation file, and say who has to do what."""
    if found.federation == expected.federation:
        return
    ours, theirs, peer = expected.federation_version, found.federation_version, expected.peer
    raise RejectedError(
        "federation",
        f"federation file: expected version {ours}, digest {expected.federation}, as site {expected.site!r} "
        f"has it, found version {theirs}, digest {found.federation}, at site {peer!r}",
        hint=way_to_agree(ours, theirs, peer),
    )


def way_to_agree(ours: int, theirs: int, peer: str) -> str:
    """What to do where our federation file and a peer's, of these versions, are not the same bytes."""
    if theirs > ours:
        return (
            f"site {peer!r} has a newer federation.toml: put version {theirs} in the place of ours, which is "
            f"version {ours}; until then we train without {peer!r}"
        )
    if theirs < ours:
        return (
            f"site {peer!r} has an older federation.toml, version {theirs}: send it version {ours}; until it "
            f"has that, we train without {peer!r}"
        )
    return (
        f"two files call themselves version {ours}: compare digests with all sites (nnunet-gml federation "
        "show) and copy the right one to everybody, to the byte"
    )


def _check_equal(rule: str, what: str, expected: str, found: str) -> None:
    if found != expected:
        raise RejectedError(rule, f"{what}: expected {expected}, found {found}")


def _check_size(what: str, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise RejectedError("size", f"{what}: expected at most {limit_bytes} bytes, found {size_bytes}")


def _check_exact_size(found: Manifest, expected: Mapping[str, int]) -> None:
    size_bytes = expected.get(found.dtype)
    if found.weights_bytes != size_bytes:
        raise RejectedError(
            "size",
            f"weights: expected {size_bytes} bytes of {found.dtype}, found {found.weights_bytes} stated",
            hint="do both sites train the same configuration of the same plans?",
        )
    most = found.weights_bytes if found.encryption == "none" else most_encrypted_bytes(found)
    if not found.weights_bytes <= found.payload_bytes <= most:
        raise RejectedError(
            "size",
            f"payload: expected {found.weights_bytes} to {most} bytes, found {found.payload_bytes} stated",
        )


def _check_expiry(found: Manifest, now: datetime) -> None:
    if found.expires_at <= now:
        raise RejectedError(
            "expired",
            f"expires: expected after {manifest.write_time(now)}, found {found.expires}",
            hint="the peer stopped offering, or one of the two clocks is wrong",
        )


def _check_sequence(found: Manifest, listed: int, last: int) -> None:
    if found.sequence != listed:
        raise RejectedError(
            "sequence", f"sequence: expected {listed} as the file is called, found {found.sequence}"
        )
    if found.sequence <= last:
        raise RejectedError(
            "sequence",
            f"sequence: expected more than {last}, found {found.sequence}"
            + (" with other content than before" if found.sequence == last else ""),
            hint="an old offer was put back, or the peer lost its state folder",
        )
    if last and found.sequence > last + MAX_SEQUENCE_JUMP:
        raise RejectedError(
            "sequence", f"sequence: expected at most {last + MAX_SEQUENCE_JUMP}, found {found.sequence}"
        )
