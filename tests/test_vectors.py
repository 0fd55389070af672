"""The test vectors of PROTOCOL.md are what this package writes, reads and draws."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import peer_sync
from peer_sync import identity, manifest, names
from peer_sync.gossip import draw_peer

TEXT = (Path(peer_sync.__file__).parent / "PROTOCOL.md").read_text().partition("## 10. Test vectors")[2]
KEY, MANIFEST, SIGNATURE, DRAW = re.findall(r"```(?:json)?\n(.*?)```", TEXT, re.DOTALL)


def test_the_key_is_spelled_as_stated(tmp_path):
    """Its private half is 32 known bytes."""
    path = tmp_path / "key"
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)

    assert identity.load_site_key(path, KEY.strip()).line == KEY.strip()
    assert identity.sign(identity.load_site_key(path, KEY.strip()), MANIFEST.encode()) == SIGNATURE.encode()


def test_the_manifest_is_read_and_written_as_stated():
    """To the byte; its digest stands in the text."""
    found = manifest.parse(MANIFEST.encode())

    assert found.to_bytes() == MANIFEST.encode()
    assert sha256(MANIFEST.encode()).hexdigest() in TEXT
    assert found.sha256 == sha256(b"weights\n").hexdigest()
    assert found.payload == names.payload_name(42, found.sha256)


def test_the_signature_verifies():
    """By the key above, over the manifest above."""
    identity.verify(KEY.strip(), MANIFEST.encode(), SIGNATURE.encode())


def test_peers_are_drawn_as_stated():
    """The list in the text, and the arithmetic it describes."""
    sites = ["east", "north", "south", "west"]
    drawn = [draw_peer(20261121, "north", round_, sites) for round_ in range(1, 9)]
    others = ["east", "south", "west"]
    digests = [sha256(DRAW.replace("ROUND", str(round_)).encode()).digest() for round_ in range(1, 9)]

    assert TEXT.strip().endswith(", ".join(drawn))
    assert drawn == [others[int.from_bytes(digest, "big") % 3] for digest in digests]
