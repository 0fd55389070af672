"""A client process of the transfer benchmark: connects, says ready, then moves files as it is told.

Reads one JSON object a line on standard input, answers with one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import paramiko

from peer_sync.transport.sftp import SftpTransport

MAX_BYTES = 1 << 40


class Client(Protocol):
    """A connection that stays open."""

    def put(self, source: Path, name: str) -> None:
        """Upload."""

    def get(self, name: str, target: Path) -> None:
        """Download."""


class Ours:
    """The transport of peer_sync."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._way = SftpTransport(
            f"sftp://{facts['user']}@127.0.0.1:{facts['port']}{facts['folder']}",
            facts["host_key"],
            Path(facts["key"]),
            facts["user"],
            carrier=facts["carrier"],
        )
        self._way.names()

    def put(self, source: Path, name: str) -> None:
        """Upload."""
        self._way.put(source, name)

    def get(self, name: str, target: Path) -> None:
        """Download."""
        self._way.get(name, target, MAX_BYTES)


class Shipped:
    """paramiko with nothing set, as its manual begins."""

    def __init__(self, facts: dict[str, Any]) -> None:
        transport = paramiko.Transport(("127.0.0.1", facts["port"]))
        kind, text = facts["host_key"].split()[:2]
        transport.connect(username=facts["user"], pkey=paramiko.Ed25519Key(filename=facts["key"]))
        shown = transport.get_remote_server_key()
        if (shown.get_name(), shown.get_base64()) != (kind, text):
            raise SystemExit("another host key")
        client = paramiko.SFTPClient.from_transport(transport)
        if client is None:
            raise SystemExit("no SFTP session")
        self._client = client
        self._folder = facts["folder"]

    def put(self, source: Path, name: str) -> None:
        """Upload."""
        self._client.put(str(source), f"{self._folder}/{name}")

    def get(self, name: str, target: Path) -> None:
        """Download."""
        self._client.get(f"{self._folder}/{name}", str(target))


def count_key_exchanges() -> list[int]:
    """A list that gets longer with every key exchange of paramiko in this process."""
    found: list[int] = []
    transport: Any = paramiko.Transport
    original = transport._parse_newkeys

    def counting(connection: paramiko.Transport, message: paramiko.Message) -> None:
        found.append(1)
        original(connection, message)

    transport._parse_newkeys = counting
    return found


def main() -> int:
    """Connect as the first argument says, and work."""
    facts = json.loads(sys.argv[1])
    key_exchanges = count_key_exchanges()
    client: Client = Shipped(facts) if facts["carrier"] == "shipped" else Ours(facts)
    answer({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        before = len(key_exchanges)
        if order["verb"] == "put":
            client.put(Path(order["path"]), order["name"])
        else:
            client.get(order["name"], Path(order["path"]))
        answer({"rekeys": len(key_exchanges) - before})
    return 0


def answer(facts: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
