"""One ssh-ed25519 key per site: makes it, reads it, signs with it, checks with it (SSHSIG)."""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import stat
import struct
from pathlib import Path

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

from peer_sync.errors import ConfigError, RejectedError

NAMESPACE = b"nnunet-gml"
KEY_TYPE = b"ssh-ed25519"
ED25519_BLOB_BYTES = 51
MAGIC = b"SSHSIG"
VERSION = 1
HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
ARMOR_BEGIN = "-----BEGIN SSH SIGNATURE-----"
ARMOR_END = "-----END SSH SIGNATURE-----"
ARMOR_WIDTH = 70


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
        _write_new(path, private, 0o600)
        _write_new(public_path, line.encode() + b"\n", 0o644)
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} exists already, and a key is never overwritten",
            hint="choose another name, or move the old key away if it is no longer needed",
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="choose another folder") from error
    return line


def load_private_key(path: Path | str) -> Ed25519PrivateKey:
    """Read an OpenSSH ed25519 private key that nobody else can read. Raises `ConfigError`."""
    path = Path(path)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the private key {path}: {error.strerror}", hint="nnunet-gml keygen makes one"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"the private key {path} can be read by others: its mode is {mode:04o}, expected 0600",
            hint=f"chmod 600 {path}",
        )
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not an OpenSSH private key without passphrase: {error}",
            hint="nnunet-gml keygen makes one",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an ed25519 key", hint="ssh-keygen -t ed25519, or nnunet-gml keygen")
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
    return blob.startswith(_string(kind)) and (kind != KEY_TYPE or len(blob) == ED25519_BLOB_BYTES)


def same_key(line: str, other: str) -> bool:
    """Whether two public lines name the same key; comments do not count."""
    return line.split()[:2] == other.split()[:2]


def sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """Sign ``data``: an armored SSHSIG, as ``ssh-keygen -Y sign -n nnunet-gml`` writes it."""
    signature = _string(KEY_TYPE) + _string(key.sign(_signed_part(b"sha512", data)))
    blob = base64.b64decode(public_line(key).split()[1])
    fields = (blob, NAMESPACE, b"", b"sha512", signature)
    return _armor(MAGIC + struct.pack(">I", VERSION) + b"".join(map(_string, fields)))


def verify(line: str, data: bytes, signature: bytes) -> None:
    """Check that ``signature`` is over ``data``, by the key of the public line. Raises `RejectedError`."""
    try:
        signer, namespace, reserved, hash_name, inner = _fields(signature)
        kind, raw = _strings(inner, 2)
        if len(signer) != ED25519_BLOB_BYTES or not signer.startswith(_string(KEY_TYPE)):
            raise ValueError("a signer that is no ed25519 key")
    except ValueError as error:
        raise RejectedError("signature", f"signature: expected armored SSHSIG, found {error}") from error
    found = f"ssh-ed25519 {base64.b64encode(signer).decode()}"
    if not same_key(found, line):
        raise RejectedError(
            "signature", f"signature: expected one by {_short(line)}, found one by {_short(found)}"
        )
    if namespace != NAMESPACE or reserved or hash_name not in HASHES or kind != KEY_TYPE:
        raise RejectedError(
            "signature",
            f"signature: expected namespace {NAMESPACE!r} and type {KEY_TYPE!r}, found {namespace[:64]!r}",
        )
    public = load_ssh_public_key(line.encode())
    if not isinstance(public, Ed25519PublicKey):
        raise RejectedError("signature", f"signature: expected an ed25519 key, found {_short(line)}")
    try:
        public.verify(raw, _signed_part(hash_name, data))
    except InvalidSignature as error:
        raise RejectedError(
            "signature",
            f"signature: expected one by {_short(line)} over these bytes, found one that does not fit",
        ) from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes, count: int) -> list[bytes]:
    """Exactly ``count`` length-prefixed strings and nothing after them. Raises ValueError."""
    found = []
    for _ in range(count):
        if len(data) < 4:
            raise ValueError("too few bytes")
        (size,) = struct.unpack_from(">I", data)
        if len(data) < 4 + size:
            raise ValueError("too few bytes")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    if data:
        raise ValueError("too many bytes")
    return found


def _signed_part(hash_name: bytes, data: bytes) -> bytes:
    fields = (NAMESPACE, b"", hash_name, HASHES[hash_name](data).digest())
    return MAGIC + b"".join(map(_string, fields))


def _armor(blob: bytes) -> bytes:
    text = base64.b64encode(blob).decode()
    lines = [text[start : start + ARMOR_WIDTH] for start in range(0, len(text), ARMOR_WIDTH)]
    return "\n".join([ARMOR_BEGIN, *lines, ARMOR_END, ""]).encode()


def _fields(signature: bytes) -> list[bytes]:
    """The five fields of a signature in its one canonical spelling. Raises ValueError."""
    lines = signature.decode("ascii").split("\n")
    try:
        blob = base64.b64decode("".join(lines[1:-2]), validate=True)
    except binascii.Error as error:
        raise ValueError("text that is not base64") from error
    header = MAGIC + struct.pack(">I", VERSION)
    if _armor(blob) != signature or not blob.startswith(header):
        raise ValueError("another format")
    return _strings(blob[len(header) :], 5)


def _short(line: str) -> str:
    kind, blob = line.split()[:2]
    digest = hashlib.sha256(base64.b64decode(blob)).digest()
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
