"""Weights that only the federation's sites can read: the age format, to their ssh-ed25519 keys.

It hides the weights from whoever runs the disk or the relay an outbox lies on. It does not hide:

- the manifest: site, round, epoch, classes, recipients, and number of cases and Dice per
  class unless site.toml withholds them;
- the size of the weights, to the byte, and when and how often a site offers;
- anything from the recipients, or from whoever gets one of their private keys: later, too,
  for every offer that was kept.

Who encrypted is not known from the file: the signed manifest, which has its SHA-256, says that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyrage
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from peer_sync import identity
from peer_sync.errors import ConfigError, RejectedError

FIRST_LINE = b"age-encryption.org/v1\n"
LAST_LINE = b"\n---"
STANZA = b"\n-> "
MAX_HEADER_BYTES = 64 * 1024
MAX_STANZAS = 512
MAX_RECIPIENTS = 500


def encrypt(source: Path, target: Path, lines: Sequence[str]) -> None:
    """Write ``source``, encrypted, to ``target``, a new file; an error leaves none.

    Args:
        source: the plain file.
        target: where the encrypted one goes; must not be there yet.
        lines: public lines ``ssh-ed25519 AAAA...`` of those who can read it, 1 to 500.

    Raises:
        ConfigError: a line is not such a key, or there are too few or too many.
        OSError: a file cannot be read or written.
    """
    if not 1 <= len(lines) <= MAX_RECIPIENTS:
        raise ConfigError(
            f"expected 1 to {MAX_RECIPIENTS} sites to encrypt to, found {len(lines)}",
            hint="leave encrypt out of site.toml",
        )
    recipients = [_recipient(line) for line in lines]
    with source.open("rb") as plain, _new_file(target) as file, _our_errors_first() as ours:
        pyrage.encrypt_io(_Reader(plain, ours), _Writer(file, ours), recipients)


def decrypt(source: Path, target: Path, private_key: Path, max_bytes: int) -> None:
    """Write what ``source`` hides to ``target``, a new file; an error leaves none.

    Args:
        source: the encrypted file.
        target: where the plain one goes; must not be there yet.
        private_key: file of our ssh-ed25519 key, without passphrase: ssh-agent cannot decrypt.
        max_bytes: more than this is never written.

    Raises:
        RejectedError: rule ``encryption``: not an age file, not for this key, changed,
            cut short, or larger than ``max_bytes``.
        ConfigError: our key cannot be used.
        OSError: a file cannot be read or written.
    """
    key = _private(private_key)
    with source.open("rb") as sealed:
        _check_header(sealed.read(MAX_HEADER_BYTES))
        sealed.seek(0)
        with _new_file(target) as file, _our_errors_first() as ours:
            try:
                pyrage.decrypt_io(_Reader(sealed, ours), _Writer(file, ours, max_bytes), [key])
            except (pyrage.DecryptError, OSError) as error:
                raise _refusal(" ".join(str(error).split())) from error


class _Reader:
    """A file to read from; notes what goes wrong."""

    def __init__(self, file: BinaryIO, errors: list[Exception]) -> None:
        self._file = file
        self._errors = errors

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self._errors.append(error)
            raise


class _Writer:
    """A file to write to, up to a limit; notes what goes wrong."""

    def __init__(self, file: BinaryIO, errors: list[Exception], max_bytes: int | None = None) -> None:
        self._file = file
        self._errors = errors
        self._max_bytes = max_bytes

    def write(self, data: bytes) -> int:
        try:
            if self._max_bytes is not None and self._file.tell() + len(data) > self._max_bytes:
                raise _refusal(f"more than {self._max_bytes} bytes")
            return self._file.write(data)
        except (OSError, RejectedError) as error:
            self._errors.append(error)
            raise

    def flush(self) -> None:
        """Closing the file does it."""


@contextmanager
def _our_errors_first() -> Iterator[list[Exception]]:
    """Whatever the library makes of an error of our files: the first of those in the list is raised."""
    ours: list[Exception] = []
    try:
        yield ours
    except Exception as error:
        if ours and error is not ours[0]:
            raise ours[0] from error
        raise


def _check_header(start: bytes) -> None:
    """The library rereads a header from its beginning again and again, so it must be a short one."""
    header, found, _ = start.partition(LAST_LINE)
    if not header.startswith(FIRST_LINE):
        raise _refusal(f"a file that begins with {header[: len(FIRST_LINE)]!r}")
    if not found or header.count(STANZA) > MAX_STANZAS:
        raise _refusal(f"a header of more than {MAX_HEADER_BYTES} bytes or {MAX_STANZAS} entries")


def _refusal(found: str) -> RejectedError:
    return RejectedError(
        "encryption",
        f"payload: expected an age file for this site's key, found {found}",
        hint="does the peer have our present key in its federation.toml, and the same age format?",
    )


def _recipient(line: str) -> pyrage.ssh.Recipient:
    try:
        return pyrage.ssh.Recipient.from_str(" ".join(line.split()[:2]))
    except pyrage.RecipientError as error:
        raise ConfigError(
            f"cannot encrypt to {line!r}: {error}", hint="the sites' public_key in federation.toml is meant"
        ) from error


def check_can_read(path: Path) -> None:
    """Whether our key can decrypt; asked before a download. Raises `ConfigError`."""
    _, is_locked = identity.check_site_key(path)
    if is_locked:
        raise ConfigError(
            f"the peer's weights are encrypted, but {path} has a passphrase or is in ssh-agent only, "
            "which cannot decrypt",
            hint="give this site a key without passphrase, or ask the peers to leave out encrypt",
        )


def _private(path: Path) -> pyrage.ssh.Identity:
    check_can_read(path)
    key = identity.load_private_key(path)
    return pyrage.ssh.Identity.from_buffer(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that was not there before, and is not there after an error."""
    file = path.open("xb")
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise
