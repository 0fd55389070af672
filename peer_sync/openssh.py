"""OpenSSH's own formats, as bytes: signatures over files (SSHSIG), and what a key file shows to anybody."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct

NAMESPACE = b"nnunet-gml"
KEY_TYPE = b"ssh-ed25519"
ED25519_BLOB_BYTES = 51
MAGIC = b"SSHSIG"
VERSION = 1
HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
ARMOR_BEGIN = "-----BEGIN SSH SIGNATURE-----"
ARMOR_END = "-----END SSH SIGNATURE-----"
ARMOR_WIDTH = 70
KEY_FILE = re.compile(rb"-----BEGIN OPENSSH PRIVATE KEY-----([\w+/=\s]+)-----END OPENSSH PRIVATE KEY-----")
KEY_FILE_MAGIC = b"openssh-key-v1\0"


def line_of(blob: bytes) -> str:
    """A public ed25519 key as ``ssh-ed25519 AAAA...``."""
    return f"{KEY_TYPE.decode()} {base64.b64encode(blob).decode()}"


def blob_of(line: str) -> bytes:
    """The bytes of a public line ``TYPE BASE64 [comment]``. Raises ValueError."""
    return base64.b64decode("".join(line.split()[1:2]), validate=True)


def is_ed25519(blob: bytes) -> bool:
    """Whether these are the bytes of a public ed25519 key."""
    return len(blob) == ED25519_BLOB_BYTES and blob.startswith(string(KEY_TYPE))


def string(data: bytes) -> bytes:
    """SSH's ``string``: the length in four bytes, then the bytes."""
    return struct.pack(">I", len(data)) + data


def first_string(data: bytes) -> tuple[bytes, bytes]:
    """The string that ``data`` begins with, and what follows it. Raises ValueError."""
    if len(data) < 4:
        raise ValueError("too few bytes")
    (size,) = struct.unpack_from(">I", data)
    if len(data) < 4 + size:
        raise ValueError("too few bytes")
    return data[4 : 4 + size], data[4 + size :]


def strings(data: bytes, count: int) -> list[bytes]:
    """Exactly ``count`` strings and nothing after them. Raises ValueError."""
    found = []
    for _ in range(count):
        one, data = first_string(data)
        found.append(one)
    if data:
        raise ValueError("too many bytes")
    return found


def signed_part(hash_name: bytes, data: bytes) -> bytes:
    """What a key really signs: the purpose and a hash of ``data``."""
    fields = (NAMESPACE, b"", hash_name, HASHES[hash_name](data).digest())
    return MAGIC + b"".join(map(string, fields))


def write(signer: bytes, raw: bytes) -> bytes:
    """The armored signature, as ``ssh-keygen -Y sign -n nnunet-gml`` writes it.

    Args:
        signer: the public key's blob, 51 bytes.
        raw: the ed25519 signature over ``signed_part(b"sha512", data)``, 64 bytes.
    """
    fields = (signer, NAMESPACE, b"", b"sha512", string(KEY_TYPE) + string(raw))
    return armor(MAGIC + struct.pack(">I", VERSION) + b"".join(map(string, fields)))


def read(signature: bytes) -> list[bytes]:
    """Signer, namespace, reserved field, hash and inner signature of one in its one canonical spelling.

    Raises:
        ValueError: anything else.
    """
    lines = signature.decode("ascii").split("\n")
    try:
        blob = base64.b64decode("".join(lines[1:-2]), validate=True)
    except binascii.Error as error:
        raise ValueError("text that is not base64") from error
    header = MAGIC + struct.pack(">I", VERSION)
    if armor(blob) != signature or not blob.startswith(header):
        raise ValueError("another format")
    return strings(blob[len(header) :], 5)


def look_at(key_file: bytes) -> tuple[bytes, bool]:
    """What a private key's file tells without its passphrase: the public blob, and whether it has one.

    Raises:
        ValueError: not the file of an OpenSSH private key.
    """
    content = base64.b64decode(b"".join(KEY_FILE.findall(key_file)))
    if not content.startswith(KEY_FILE_MAGIC):
        raise ValueError("another format")
    cipher, rest = first_string(content.removeprefix(KEY_FILE_MAGIC))
    for _ in ("kind of passphrase hash", "its options"):
        _, rest = first_string(rest)
    blob, _ = first_string(rest[4:])
    return blob, cipher != b"none"


def armor(blob: bytes) -> bytes:
    """Base64 in lines of 70 characters between two marks."""
    text = base64.b64encode(blob).decode()
    lines = [text[start : start + ARMOR_WIDTH] for start in range(0, len(text), ARMOR_WIDTH)]
    return "\n".join([ARMOR_BEGIN, *lines, ARMOR_END, ""]).encode()
