"""Everything that reads a peer's bytes, each with inputs made for it."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

from courier_kit import PLANS, SCHEMA, SIZES, build_sites, offer
from fuzz_kit import mutated_bytes, mutated_object

from peer_sync import encryption, identity
from peer_sync.checks import check_manifest
from peer_sync.errors import RejectedError
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import parse
from peer_sync.names import manifest_name, payload_name, signature_name

PLAUSIBLE = {
    str: ["0" * 64, "south", "north", "none", "age", "int8", "2027-01-01T00:00:00Z", "2026-01-01T00:00:00Z"],
    int: [0, 1, 2, 700, 1_000_002, 9_999_999_999, 2**53 - 1],
    list: [[], ["north"], ["east"], ["north", "east"], [f"class {number}" for number in range(1024)]],
    dict: [{}, {"brainstem": 1.0}, {"a": 0.5, "b": 0.0}],
}


class Manifests:
    """Manifests and signatures through `peer_sync.manifest.parse` and `peer_sync.checks.check_manifest`."""

    refusal = RejectedError

    def __init__(self, folder: Path) -> None:
        north, south = (Mailbox(site) for site in build_sites(folder).values())
        self.manifest = offer(south)
        self.data = (south.outbox / manifest_name(1)).read_bytes()
        self.signature = (south.outbox / signature_name(1)).read_bytes()
        self.expected = north._expectation("south", PLANS, SCHEMA, SIZES, least_round=0)
        self.key = identity.load_site_key(south.site.private_key, south.site.member.public_key)

    def warm_up(self) -> None:
        """What was really offered is accepted."""
        assert self.judge((self.data, self.signature)) == "accepted"

    def make(self, chance: random.Random) -> tuple[bytes, bytes]:
        """A manifest and a signature, at least one of them changed; half of the manifests are signed well."""
        data, signature = self.data, self.signature
        if chance.random() < 0.9:
            change = chance.choice([self._plausible, _structured, mutated_bytes])
            data = change(chance, data)
            signature = identity.sign(self.key, data) if chance.random() < 0.5 else signature
        else:
            signature = mutated_bytes(chance, signature)
        return data, signature

    def _plausible(self, chance: random.Random, data: bytes) -> bytes:
        """One or two fields with another value of their type, spelled as it must be."""
        content = json.loads(data)
        for name in chance.sample([*content], chance.randint(1, 2)):
            content[name] = chance.choice(PLAUSIBLE[type(content[name])])
        if chance.random() < 0.5:
            content["payload"] = payload_name(content["sequence"], content["sha256"])
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    def judge(self, case: tuple[bytes, bytes]) -> str:
        """Parse and check; what is accepted was signed, byte for byte, and has one spelling."""
        data, signature = case
        if len(data) <= 64 * 1024:
            assert parse(data).to_bytes() == data
        found = check_manifest(data, signature, 1, self.expected)
        assert found.to_bytes() == data
        identity.verify(self.expected.public_key, data, signature)
        assert set(asdict(found)) == set(json.loads(data))
        return "accepted"


class Headers:
    """Weights files with hostile headers through `nnunet_gml.weights.read`."""

    def __init__(self, folder: Path) -> None:
        import torch
        from torch import nn

        from nnunet_gml import weights

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.weights = weights
        self.refusal = weights.WeightsError
        self.network = nn.Conv3d(1, 2, 3)
        self.path = folder / "weights.safetensors"
        self.good: dict[str, bytes] = {}
        for dtype in weights.DTYPES:
            weights.write(self.network, self.path, dtype)
            self.good[dtype] = self.path.read_bytes()

    def warm_up(self) -> None:
        """What was really written is accepted; whatever is imported late is imported now."""
        for dtype, data in self.good.items():
            assert self.judge((data, dtype)) == "accepted"

    def make(self, chance: random.Random) -> tuple[bytes, str]:
        """A file and the type that the manifest states; most are as long as a good file."""
        dtype = chance.choice([*self.good])
        good = self.good[dtype]
        size = 8 + int.from_bytes(good[:8], "little")
        header, body = good[8:size], good[size:]
        change = chance.randrange(4)
        if change == 0:
            header = mutated_object(chance, json.loads(header)).rstrip(b"\n")
        elif change == 1:
            header = _mutated_entry(chance, json.loads(header))
        elif change == 2:
            header = mutated_bytes(chance, header)
        else:
            body = mutated_bytes(chance, body)
        lengths = [len(header)] * 6 + [0, 1, 2**63, 2**63 - 1, 2**64 - 1, 100_000_001, len(header) + 1]
        data = chance.choice(lengths).to_bytes(8, "little") + header + body
        if chance.random() < 0.8:
            data = data[: len(good)].ljust(len(good), b" ")
        return data, dtype

    def judge(self, case: tuple[bytes, str]) -> str:
        """Read; what is accepted has our own header to the byte."""
        data, dtype = case
        self.path.write_bytes(data)
        self.weights.read(self.path, self.network, dtype)
        size = 8 + int.from_bytes(self.good[dtype][:8], "little")
        assert data[:size] == self.good[dtype][:size]
        return "accepted"


class Sealed:
    """Encrypted payloads through `peer_sync.encryption.decrypt`."""

    refusal = RejectedError

    def __init__(self, folder: Path) -> None:
        site = build_sites(folder)["north"]
        self.key = site.private_key
        self.source, self.target = folder / "sealed", folder / "open"
        (folder / "plain").write_bytes(b"weights" * 12_000)
        encryption.encrypt(folder / "plain", self.source, [site.member.public_key])
        self.data = self.source.read_bytes()
        self.header_bytes = self.data.index(b"\n---") + 60

    def warm_up(self) -> None:
        """What was really encrypted is opened."""
        assert self.judge(self.data) == "accepted"

    def make(self, chance: random.Random) -> bytes:
        """A changed header, a changed line of it, or changed data."""
        header, body = self.data[: self.header_bytes], self.data[self.header_bytes :]
        change = chance.randrange(3)
        if change == 0:
            return mutated_bytes(chance, header) + body
        if change == 1:
            return header + mutated_bytes(chance, body)
        lines = header.split(b"\n")
        number = chance.randrange(len(lines))
        lines[number : number + 1] = chance.choice(
            [[], [lines[number]] * 2, [lines[number]] * 600, [mutated_bytes(chance, lines[number])]]
        )
        return b"\n".join(lines) + body

    def judge(self, data: bytes) -> str:
        """Open it; what is accepted is what was sealed."""
        self.source.write_bytes(data)
        self.target.unlink(missing_ok=True)
        encryption.decrypt(self.source, self.target, self.key, 100_000)
        assert self.target.read_bytes() == b"weights" * 12_000
        return "accepted"


def _structured(chance: random.Random, data: bytes) -> bytes:
    return mutated_object(chance, json.loads(data))


def _mutated_entry(chance: random.Random, header: dict) -> bytes:
    """One tensor's entry changed: type, shape or offsets."""
    name = chance.choice([*header])
    header[name] = json.loads(json.dumps(header[name]))
    text = json.dumps(header, separators=(",", ":")).encode()
    entry = json.dumps(header[name], separators=(",", ":")).encode()
    return text.replace(entry, mutated_object(chance, header[name]).rstrip(b"\n"), 1)


Parser = Manifests | Headers | Sealed
