"""The command line of the system's ssh: all of ssh_config counts, but for what must not be left to it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peer_sync.errors import ConfigError
from peer_sync.ssh import CIPHERS, DIGESTS
from peer_sync.transport.hosts import Host, Way

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}")
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}|[0-9A-Fa-f:.]{2,64}(%[A-Za-z0-9_.-]{1,32})?")
PLAIN_PATH = re.compile(r"[A-Za-z0-9_.,+/@=-]+")
PEER_ALIAS, JUMP_ALIAS = "nnunet-gml-peer", "nnunet-gml-jump"
FASTEST_FIRST = sorted(CIPHERS, key=lambda cipher: ("gcm" not in cipher, "256" in cipher))
NEWER_THAN_SOME = "KnownHostsCommand,StdinNull,ForkAfterAuthentication,WarnWeakCrypto"
"""Options that an older ssh does not know, and then need not be told."""

FIXED = (
    f"IgnoreUnknown={NEWER_THAN_SOME}",
    "BatchMode=yes",
    "PreferredAuthentications=publickey",
    "IdentitiesOnly=yes",
    "AddKeysToAgent=no",
    "StrictHostKeyChecking=yes",
    "NoHostAuthenticationForLocalhost=no",
    "GlobalKnownHostsFile=/dev/null",
    "KnownHostsCommand=none",
    "CheckHostIP=no",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "StdinNull=no",
    "ForkAfterAuthentication=no",
    "Compression=no",
    "VisualHostKey=no",
    "WarnWeakCrypto=no",
    "LogLevel=INFO",
    f"Ciphers={','.join(FASTEST_FIRST)}",
    f"MACs={','.join(DIGESTS)}",
)


@dataclass(frozen=True)
class Files:
    """What ssh reads, in a folder that only we can read.

    Attributes:
        folder: all of them are here.
    """

    folder: Path

    @property
    def jump_errors(self) -> Path:
        """A FIFO for what the ssh to the jump host says."""
        return self.folder / "jump.err"

    @property
    def identity(self) -> Path:
        """Our key: a link to the private half, and beside it the public one."""
        return self.folder / "key"

    def known_hosts(self, alias: str) -> Path:
        """A list of one host, under a name of ours."""
        return self.folder / alias

    def write(self, way: Way, key_line: str) -> None:
        """Make them all; ``key_line`` is our public key. Raises OSError."""
        os.mkfifo(self.jump_errors)
        if way.private_key.exists():
            self.identity.symlink_to(way.private_key.absolute())
        self.identity.with_suffix(".pub").write_text(f"{key_line}\n")
        for alias, host in ((PEER_ALIAS, way.peer), (JUMP_ALIAS, way.jump)):
            if host is not None:
                key = " ".join(host.host_key.split()[:2])
                self.known_hosts(alias).write_text(f"{alias} {key}\n")


def check(way: Way) -> str:
    """Where ssh is, if it can be used for this way. Raises `ConfigError`."""
    found = shutil.which("ssh")
    if found is None:
        raise ConfigError(
            "carrier is 'ssh', but there is no ssh on PATH",
            hint="install the OpenSSH client, or leave carrier out of site.toml",
        )
    for host in filter(None, (way.peer, way.jump)):
        _check_name(host, "user", host.user, USER)
        _check_name(host, "host", host.address.host, HOST)
    folder = tempfile.gettempdir()
    if not PLAIN_PATH.fullmatch(folder):
        raise ConfigError(
            f"the temporary folder is {folder!r}, expected a path of letters, digits and _.,+/@=- for ssh",
            hint="set TMPDIR to another folder, or leave carrier out of site.toml",
        )
    return found


def command(ssh: str, way: Way, files: Files) -> list[str]:
    """The arguments that start the SFTP session of a checked way."""
    arguments = [ssh, *_options(way, way.peer, PEER_ALIAS, files)]
    if way.jump is not None:
        arguments += ["-o", "ProxyUseFdpass=no", "-o", f"ProxyCommand={_proxy(ssh, way, way.jump, files)}"]
    return [*arguments, "-s", "--", way.peer.address.host, "sftp"]


def _options(way: Way, host: Host, alias: str, files: Files) -> list[str]:
    patience = way.patience
    changing = (
        f"HostKeyAlias={alias}",
        f"HostKeyAlgorithms={','.join(host.algorithms())}",
        f"UserKnownHostsFile={files.known_hosts(alias)}",
        f"IdentityFile={files.identity}",
        f"ConnectTimeout={max(1, round(patience.connect_seconds))}",
        f"ServerAliveInterval={max(1, round(patience.silence_seconds / 2))}",
        "ServerAliveCountMax=2",
    )
    options = [part for option in FIXED + changing for part in ("-o", option)]
    return [*options, "-p", str(host.address.port), "-l", host.user]


def _proxy(ssh: str, way: Way, jump: Host, files: Files) -> str:
    """The command that a shell starts; only ssh itself puts the peer's checked name into it."""
    options = shlex.join([ssh, *_options(way, jump, JUMP_ALIAS, files)])
    rest = f"{shlex.join(['--', jump.address.host])} 2>{shlex.quote(str(files.jump_errors))}"
    return " -W '[%h]:%p' ".join(part.replace("%", "%%") for part in (options, rest))


def _check_name(host: Host, kind: str, found: str, expected: re.Pattern[str]) -> None:
    if not expected.fullmatch(found):
        raise ConfigError(
            f"{host}: the {kind} is {found!r}, expected only letters, digits and _.-, and no leading -",
            hint="write it so in the address, or leave carrier out of site.toml: paramiko takes any name",
        )
