"""Gives south a relay: a folder beside its own, or the same folder behind OpenSSH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from courier_kit import free_port
from proxy_kit import Proxy
from sshd_kit import running_sshd


def use_relay(folder: Path, address: str = "folder:relay", **more: str) -> Path:
    """Write it into south.toml; returns the relay's folder on this machine."""
    (folder / "relay").mkdir(exist_ok=True)
    path = folder / "south.toml"
    lines = [f'{key} = "{value}"\n' for key, value in {"relay": address, **more}.items()]
    path.write_text(path.read_text() + "".join(lines))
    return folder / "relay"


@contextmanager
def openssh_relay(folder: Path) -> Iterator[Proxy]:
    """The relay behind a real sshd, and a network in between; south may log in."""
    with running_sshd(folder / "sshd") as sshd:
        (sshd.login_key.parent / "authorized").write_text((folder / "keys" / "south.pub").read_text())
        proxy = Proxy(free_port(), sshd.port)
        address = sshd.address(folder / "relay").replace(f":{sshd.port}", f":{proxy.port}")
        use_relay(folder, address, relay_host_key=sshd.host_key)
        try:
            yield proxy
        finally:
            proxy.close()
