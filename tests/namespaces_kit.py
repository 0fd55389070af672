"""Network namespaces with an address each: as good as separate machines for whatever talks over a network."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

CAN_MAKE_NAMESPACES = (
    os.geteuid() == 0
    and shutil.which("ip") is not None
    and subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
)


@dataclass(frozen=True)
class Machine:
    """A namespace of its own with one address, in a network of the test."""

    name: str
    namespace: str
    address: str

    def inside(self, *command: str) -> list[str]:
        """A command line that runs in there."""
        return ["ip", "netns", "exec", self.namespace, *command]


@contextmanager
def machines(names: Sequence[str]) -> Iterator[list[Machine]]:
    """Machines that reach each other, and nothing else, through a switch in a namespace of its own."""
    stem = f"gml{os.getpid()}"
    switch = f"{stem}-switch"
    found = [
        Machine(name, f"{stem}-{name}", f"10.77.0.{number}") for number, name in enumerate(names, start=1)
    ]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, machine in enumerate(found):
            _connect(machine, switch, f"port{number}")
        yield found
    finally:
        for namespace in (switch, *(machine.namespace for machine in found)):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _connect(machine: Machine, switch: str, port: str) -> None:
    inside = ("-n", machine.namespace)
    _ip("netns", "add", machine.namespace)
    _ip(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
    _ip(*inside, "address", "add", f"{machine.address}/24", "dev", "eth0")
    _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
    for device in ("lo", "eth0"):
        _ip(*inside, "link", "set", device, "up")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
