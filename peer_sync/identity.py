"""One ssh-ed25519 key per site: makes it, finds it, signs with it, checks with it (SSHSIG)."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from peer_sync import key_files, openssh
from peer_sync.errors import ConfigError, RejectedError
from peer_sync.openssh import KEY_TYPE, blob_of, is_ed25519, line_of
from peer_sync.ssh_agent import AgentKey


class SiteKey(Protocol):
    """The key of this site, from a file or from ssh-agent."""

    @property
    def line(self) -> str:
        """The public half, ``ssh-ed25519 AAAA...`` without a comment."""

    def sign(self, data: bytes) -> bytes:
        """The raw ed25519 signature over ``data``, 64 bytes. Raises `TransportError` if the agent fails."""


class FileKey:
    """A key from a file without passphrase: a `SiteKey`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.line = public_line(key)
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """See `SiteKey`."""
        return self._key.sign(data)


def generate_key(path: Path | str, comment: str = "") -> str:
    """Make a key: ``path`` (readable by its owner only) and ``path.pub``; returns the public line.

    Raises:
        ConfigError: one of the two files exists already, or cannot be written.
    """
    path = Path(path)
    public_path = path.with_name(path.name + ".pub")
    key = Ed25519PrivateKey.generate()
    line = f"{public_line(key)} {comment}".strip()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for existing in filter(os.path.lexists, (path, public_path)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(existing))
        key_files.write_new(path, private, 0o600)
        key_files.write_new(public_path, line.encode() + b"\n", 0o644)
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} exists already, and a key is never overwritten",
            hint="choose another name, or move the old key away if it is no longer needed",
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="choose another folder") from error
    return line


def load_site_key(path: Path | str, line: str = "") -> SiteKey:
    """The key of this site: from its file, or from ssh-agent if that has a passphrase or is not there.

    Args:
        path: the private key's file; for a key that only the agent has, PATH.pub is enough, by either name.
        line: the public line that the federation has of this site; empty takes any key.

    Raises:
        ConfigError: no such key, another one, or one that only ssh-agent can use and does not hold.
    """
    path = Path(path)
    found, is_locked = check_site_key(path, line)
    if not is_locked:
        return FileKey(load_private_key(path))
    return AgentKey(found, blob_of(found), path)


def check_site_key(path: Path | str, line: str = "") -> tuple[str, bool]:
    """Check the key of this site as far as that goes without ssh-agent; arguments as for `load_site_key`.

    Returns:
        Its public line without a comment, and whether only ssh-agent can use it.

    Raises:
        ConfigError: no such key, or another one.
    """
    path = Path(path)
    public_path = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
    if path == public_path or (public_path.exists() and not path.exists()):
        path, found, is_locked = public_path, key_files.public_line(public_path), True
    else:
        found, is_locked = key_files.look_at(path)
    if line and not same_key(found, line):
        raise ConfigError(
            f"the private key {path} is {found!r}, but federation.toml expects {line!r}",
            hint="use the key whose public line is in federation.toml, or change the line at every site",
        )
    return found, is_locked


def load_private_key(path: Path | str) -> Ed25519PrivateKey:
    """Read an OpenSSH ed25519 private key that nobody else can read. Raises `ConfigError`."""
    path = Path(path)
    try:
        key = load_ssh_private_key(key_files.private_file(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not an OpenSSH private key without passphrase: {error}",
            hint="nnunet-gml keygen makes one",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise key_files.not_ed25519(path)
    return key


def public_line(key: Ed25519PrivateKey) -> str:
    """The public half as ``ssh-ed25519 AAAA...``."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def is_public_line(line: str, kinds: tuple[str, ...]) -> bool:
    """Whether ``line`` is ``TYPE BASE64 [comment]`` with one of the given key types."""
    fields = line.split()
    if len(fields) < 2 or fields[0] not in kinds:
        return False
    try:
        blob = base64.b64decode(fields[1], validate=True)
    except ValueError:
        return False
    kind = fields[0].encode()
    return is_ed25519(blob) if kind == KEY_TYPE else blob.startswith(openssh.string(kind))


def same_key(line: str, other: str) -> bool:
    """Whether two public lines name the same key; comments do not count."""
    return line.split()[:2] == other.split()[:2]


def sign(key: SiteKey, data: bytes) -> bytes:
    """Sign ``data``: an armored SSHSIG, as ``ssh-keygen -Y sign -n nnunet-gml`` writes it.

    Raises:
        TransportError: ssh-agent did not sign.
    """
    return openssh.write(blob_of(key.line), key.sign(openssh.signed_part(b"sha512", data)))


def verify(line: str, data: bytes, signature: bytes) -> None:
    """Check that ``signature`` is over ``data``, by the key of the public line. Raises `RejectedError`."""
    try:
        signer, namespace, reserved, hash_name, inner = openssh.read(signature)
        kind, raw = openssh.strings(inner, 2)
        if not is_ed25519(signer):
            raise ValueError("a signer that is no ed25519 key")
    except ValueError as error:
        raise RejectedError("signature", f"signature: expected armored SSHSIG, found {error}") from error
    found = line_of(signer)
    if not same_key(found, line):
        raise RejectedError(
            "signature", f"signature: expected one by {fingerprint(line)}, found one by {fingerprint(found)}"
        )
    if namespace != openssh.NAMESPACE or reserved or hash_name not in openssh.HASHES or kind != KEY_TYPE:
        raise RejectedError(
            "signature",
            f"signature: expected namespace {openssh.NAMESPACE!r} and type {KEY_TYPE!r}, "
            f"found {namespace[:64]!r}",
        )
    public = load_ssh_public_key(line.encode())
    if not isinstance(public, Ed25519PublicKey):
        raise RejectedError("signature", f"signature: expected an ed25519 key, found {fingerprint(line)}")
    try:
        public.verify(raw, openssh.signed_part(hash_name, data))
    except InvalidSignature as error:
        raise RejectedError(
            "signature",
            f"signature: expected one by {fingerprint(line)} over these bytes, found one that does not fit",
        ) from error


def fingerprint(line: str) -> str:
    """A public key as people compare it: its type and SHA-256."""
    digest = hashlib.sha256(blob_of(line)).digest()
    return f"{line.split()[0]} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
