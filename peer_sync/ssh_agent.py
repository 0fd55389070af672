"""ssh-agent: keys with a passphrase, or in hardware, sign without this program ever holding them.

Every answer is bounded in time and size. Nobody is asked for anything here: a key that is
not in the agent is an error that says what to type.
"""

from __future__ import annotations

import os
import shlex
import socket
import struct
import time
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from peer_sync.errors import ConfigError, TransportError
from peer_sync.openssh import KEY_TYPE, string, strings

VARIABLE = "SSH_AUTH_SOCK"
ANSWER_SECONDS = 10.0
MAX_ANSWER_BYTES = 256 * 1024
ED25519_BYTES = 32
ASK_KEYS, KEYS = b"\x0b", b"\x0c"
ASK_SIGNATURE, SIGNATURE = b"\x0d", b"\x0e"
NO_FLAGS = bytes(4)


class AgentKey:
    """An ed25519 key that ssh-agent holds: a `SiteKey`.

    Args:
        line: the public half, ``ssh-ed25519 AAAA...`` without a comment.
        blob: the same as bytes.
        path: the key's file, for messages.

    Raises:
        ConfigError: no agent, none that answers within ten seconds, or one without this key.
    """

    def __init__(self, line: str, blob: bytes, path: Path) -> None:
        self.line = line
        self._blob = blob
        self._path = path
        try:
            held = _keys(_ask(ASK_KEYS))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the key {path} must come from ssh-agent, but {_why(error)}",
                hint=f'eval "$(ssh-agent)"; {_add(path)}',
            ) from error
        if blob not in held:
            raise ConfigError(
                f"the key {path} must come from ssh-agent: expected {line}, found {len(held)} other keys",
                hint=f"{_add(path)} (ssh-add -L lists what the agent holds)",
            )

    def sign(self, data: bytes) -> bytes:
        """The raw signature over ``data``, 64 bytes, checked before anybody uses it.

        Raises:
            TransportError: the agent did not sign within ten seconds.
        """
        try:
            raw = _signature(_ask(ASK_SIGNATURE + string(self._blob) + string(data) + NO_FLAGS))
            Ed25519PublicKey.from_public_bytes(self._blob[-ED25519_BYTES:]).verify(raw, data)
        except (OSError, ValueError, InvalidSignature) as error:
            raise TransportError(
                f"ssh-agent did not sign with the key {self._path}: {_why(error)}",
                hint="is the agent locked (ssh-add -X), or does the key wait for a touch or a confirmation?",
            ) from error
        return raw


def _ask(request: bytes) -> bytes:
    """One request, one answer. Raises OSError and ValueError."""
    place = os.environ.get(VARIABLE, "")
    if not place:
        raise ValueError(f"{VARIABLE} is not set")
    deadline = time.monotonic() + ANSWER_SECONDS
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(place)
        sock.sendall(string(request))
        (size,) = struct.unpack(">I", _read(sock, 4, deadline))
        if size > MAX_ANSWER_BYTES:
            raise ValueError(f"its answer has {size} bytes, expected at most {MAX_ANSWER_BYTES}")
        return _read(sock, size, deadline)


def _read(sock: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise ValueError("it ended the connection")
        data += chunk
    return bytes(data)


def _keys(answer: bytes) -> list[bytes]:
    """The public blobs in the answer. Raises ValueError."""
    rest = _body(answer, KEYS)
    (count,) = struct.unpack_from(">I", rest.ljust(4, b"\0"))
    return strings(rest[4:], 2 * count)[::2]


def _signature(answer: bytes) -> bytes:
    """The raw signature in the answer. Raises ValueError."""
    (blob,) = strings(_body(answer, SIGNATURE), 1)
    kind, raw = strings(blob, 2)
    if kind != KEY_TYPE:
        raise ValueError("its signature is not ed25519")
    return raw


def _body(answer: bytes, kind: bytes) -> bytes:
    if answer[:1] != kind:
        raise ValueError("it refused")
    return answer[1:]


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it gave no answer within {ANSWER_SECONDS:.0f} s"
    if isinstance(error, InvalidSignature):
        return "its signature is not by this key"
    if isinstance(error, OSError):
        return f"{os.environ.get(VARIABLE)}: {error.strerror or error}"
    return str(error)


def _add(path: Path) -> str:
    if path.suffix == ".pub" or not path.exists():
        return "add the key, or its token, to ssh-agent (ssh-add -s LIBRARY for PKCS#11)"
    return f"ssh-add {shlex.quote(str(path))}"
