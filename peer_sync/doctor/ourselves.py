"""Is this installation itself in order? Keys, folders, disk, and what the peers will find."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from peer_sync import identity, names
from peer_sync.doctor.findings import FAILED, OK, WARNING, Check, Result
from peer_sync.errors import ConfigError, PeerSyncError
from peer_sync.identity import fingerprint
from peer_sync.site import Site
from peer_sync.storage import CHUNK_BYTES, part_path, read_state

SPARE_BYTES = 64 * 1024 * 1024
SAMPLE_BYTES = 16 * 1024 * 1024
SLOW_BYTES_PER_SECOND = 4_000_000
CHALLENGE = b"nnunet-gml doctor"


class Ourselves:
    """What can be checked without leaving this machine.

    Nothing is changed but a file in the inbox, which is removed again; it is called as
    unfinished files are, so that after a crash the next start removes it.
    """

    def __init__(self, site: Site) -> None:
        self.site = site

    def checks(self) -> list[Check]:
        """All of them; none depends on another."""
        return [
            Check("files", self._files),
            Check("key", self._key),
            Check("state", self._state),
            Check("folder", self._folder),
            Check("disk", self._disk),
            Check("write speed", self._write_speed),
        ]

    def _files(self) -> Result:
        federation = self.site.federation
        return Result(OK, f"{len(federation.members)} sites, federation digest {federation.digest[:12]}...")

    def _key(self) -> Result:
        site, line = self.site, self.site.member.public_key
        expected = f"a key that signs as {fingerprint(line)}"
        try:
            key = identity.load_site_key(site.private_key, line)
            identity.verify(line, CHALLENGE, identity.sign(key, CHALLENGE))
        except PeerSyncError as error:
            return Result(FAILED, str(error), expected, f"{error}. To do: {error.hint}.")
        held = "its file" if isinstance(key, identity.FileKey) else "ssh-agent"
        return Result(OK, f"signs, from {held}: {fingerprint(line)}")

    def _state(self) -> Result:
        folder = self.site.folder / "state"
        paths = [folder / "sequence.json", *sorted(folder.glob("peer-*.json"))]
        try:
            read = sum(bool(read_state(path)) for path in paths)
        except ConfigError as error:
            return Result(FAILED, str(error), "JSON that we wrote", f"{error}. To do: {error.hint}.")
        return Result(OK, f"{read} files" if read else "empty: nothing was exchanged yet")

    def _folder(self) -> Result:
        folder, missing = self.site.folder, ""
        while not folder.exists() and folder != folder.parent:
            folder, missing = folder.parent, "; it will be made"
        expected = "a folder that can be written"
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return Result(OK, f"{self.site.folder} can be written{missing}")
        advice = f"The folder {folder} cannot be written. Please give the user of the training the right to."
        return Result(FAILED, f"{folder} cannot be written", expected, advice)

    def _disk(self) -> Result:
        place, most = _existing(self.site.folder), self.site.federation.max_payload_bytes
        free = shutil.disk_usage(place).free
        usual = _payload_bytes(self.site.folder / "outbox")
        words = f"{free / 1e9:.1f} GB free"
        for verdict, needed, what in (
            (FAILED, usual, "an offer such as our own"),
            (WARNING, most, "the largest offer that the federation allows"),
        ):
            if free < needed + SPARE_BYTES:
                expected = f"{(needed + SPARE_BYTES) / 1e9:.1f} GB for {what}"
                advice = f"On the disk of {place}, {words}, expected {expected}. Please make room."
                return Result(verdict, words, expected, advice)
        return Result(OK, words)

    def _write_speed(self) -> Result:
        place = _existing(self.site.folder / "inbox")
        if shutil.disk_usage(place).free < SAMPLE_BYTES + SPARE_BYTES:
            words = "not measured: the disk is nearly full"
            return Result(WARNING, words, advice=f"Please make room on the disk of {place}.")
        try:
            seconds = _write_sample(place)
        except OSError as error:
            advice = f"A file in {place} cannot be written: {error.strerror}. Please check rights and quota."
            return Result(FAILED, f"{place}: {error.strerror}", "a file that can be written", advice)
        rate = SAMPLE_BYTES / seconds
        words = f"{SAMPLE_BYTES >> 20} MiB in {seconds:.2f} s, {rate / 1e6:.0f} MB/s"
        if rate >= SLOW_BYTES_PER_SECOND:
            return Result(OK, words)
        expected = f"at least {SLOW_BYTES_PER_SECOND / 1e6:.0f} MB/s"
        return Result(
            WARNING, words, expected, f"The disk of {place} is slow: {words}. Please look what holds it up."
        )


def _write_sample(folder: Path) -> float:
    """Seconds that a file takes until it lies on the disk. Raises OSError."""
    path, data = part_path(folder), os.urandom(CHUNK_BYTES)
    started = time.monotonic()
    try:
        with path.open("xb") as file:
            for _ in range(SAMPLE_BYTES // CHUNK_BYTES):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return max(time.monotonic() - started, 1e-3)
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _payload_bytes(outbox: Path) -> int:
    """Size of the largest payload of our own; 0 when there is none."""
    sizes = [0]
    for path in outbox.glob("*-*.safetensors*"):
        with suppress(OSError):
            sizes.append(path.stat().st_size if names.is_published(path.name) else 0)
    return max(sizes)
