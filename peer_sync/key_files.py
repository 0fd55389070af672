"""The two files of a key, PATH and PATH.pub: written for their owner only, read with suspicion."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from peer_sync import openssh
from peer_sync.errors import ConfigError


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())


def private_file(path: Path) -> bytes:
    """The content of a private key's file that nobody else can read. Raises `ConfigError`."""
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
    return data


def look_at(path: Path) -> tuple[str, bool]:
    """The public line of a private key's file, and whether that has a passphrase. Raises `ConfigError`."""
    data = private_file(path)
    try:
        blob, is_locked = openssh.look_at(data)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not an OpenSSH private key: {error}", hint="nnunet-gml keygen makes one"
        ) from error
    if not openssh.is_ed25519(blob):
        raise not_ed25519(path)
    return openssh.line_of(blob), is_locked


def public_line(path: Path) -> str:
    """The line in PATH.pub, without its comment. Raises `ConfigError`."""
    try:
        blob = openssh.blob_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the public key {path}: {error.strerror}", hint="ssh-add -L prints the agent's keys"
        ) from error
    except ValueError:
        blob = b""
    if not openssh.is_ed25519(blob):
        raise not_ed25519(path)
    return openssh.line_of(blob)


def not_ed25519(path: Path) -> ConfigError:
    """What to say of a key of another kind."""
    return ConfigError(f"{path} is not an ed25519 key", hint="ssh-keygen -t ed25519, or nnunet-gml keygen")
