"""The system's ssh as carrier: what it is told, what it may do, and what is left of it."""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from courier_kit import wait_for
from sshd_kit import SSH, SSHD, running_agent, running_sshd

from peer_sync.address import Patience
from peer_sync.errors import ConfigError, LoginError, RejectedError, TransportError
from peer_sync.identity import generate_key
from peer_sync.names import payload_name
from peer_sync.openssh import string
from peer_sync.site import Jump
from peer_sync.transport.child import MAX_SAID_BYTES, _said
from peer_sync.transport.hosts import way
from peer_sync.transport.session import FileRequests
from peer_sync.transport.sftp import SftpTransport
from peer_sync.transport.ssh_command import Files, check, command

NAME = payload_name(1, "a" * 64)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
JUMP = Jump("sftp://gate@jump.example:2222", KEY, None)
ENFORCED = {
    "batchmode": "yes",
    "checkhostip": "no",
    "clearallforwardings": "yes",
    "controlmaster": "false",
    "forwardagent": "no",
    "forwardx11": "no",
    "globalknownhostsfile": "/dev/null",
    "hostkeyalgorithms": "ssh-ed25519",
    "identitiesonly": "yes",
    "nohostauthenticationforlocalhost": "no",
    "permitlocalcommand": "no",
    "preferredauthentications": "publickey",
    "stricthostkeychecking": "true",
    "tunnel": "false",
    "updatehostkeys": "false",
    "user": "north",
    "verifyhostkeydns": "false",
}
CARELESS = """
Host *
  StrictHostKeyChecking no
  UserKnownHostsFile /tmp/anything
  GlobalKnownHostsFile /tmp/anything
  NoHostAuthenticationForLocalhost yes
  VerifyHostKeyDNS yes
  HostKeyAlgorithms ecdsa-sha2-nistp256
  HostKeyAlias somebody
  User somebody
  ControlMaster yes
  ControlPath /tmp/control
  ForwardAgent yes
  ForwardX11 yes
  PermitLocalCommand yes
  LocalCommand touch /tmp/run-by-ssh
  RemoteCommand reboot
  PreferredAuthentications password
  BatchMode no
  LogLevel QUIET
  Tunnel yes
"""

pytestmark = pytest.mark.skipif(SSH is None, reason="ssh is not installed")


def to(address: str, user: str = "north", jump: Jump | None = None):
    """The way to an address."""
    return way(address, KEY, user, jump, Path("/keys/north"), KEY, Patience())


@pytest.fixture
def sshd(tmp_path):
    """A real server."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    with running_sshd(tmp_path / "sshd") as running:
        yield running


@pytest.fixture
def transport(sshd, tmp_path):
    """The way to a folder behind it."""
    (tmp_path / "outbox").mkdir()
    made = SftpTransport(
        sshd.address(tmp_path / "outbox"), sshd.host_key, sshd.login_key, "nobody", carrier="ssh"
    )
    yield made
    made.close()


def children() -> set[str]:
    """Numbers of the processes that this one has started and not yet buried."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {number for task in tasks for number in task.read_text().split()}


def test_ssh_config_cannot_loosen_what_matters(tmp_path):
    """ssh itself says what it made of our options and of a careless file of the user's."""
    (tmp_path / "config").write_text(CARELESS)
    arguments = command(check(to("sftp://peer.example:22")), to("sftp://peer.example:22"), Files(tmp_path))

    printed = subprocess.run(
        [arguments[0], "-G", "-F", str(tmp_path / "config"), *arguments[1:]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = dict(line.split(" ", 1) for line in printed.splitlines() if " " in line)

    assert {name: found.get(name, "no") for name in ENFORCED} == ENFORCED
    assert found["hostkeyalias"] == "nnunet-gml-peer"
    assert found["userknownhostsfile"] == str(tmp_path / "nnunet-gml-peer")
    assert found["ciphers"].startswith("aes128-gcm@openssh.com,")
    assert found.get("controlpath", "none") == "none"
    assert "remotecommand" not in found or found["remotecommand"] == "none"


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=x", "-x", "a b", "a;b", "$(a)", "`a`", "a'b", "a\nb", "%h", "ä", ""]
)
@pytest.mark.parametrize("which", ["peer", "jump"])
def test_a_name_never_becomes_an_option_or_a_command(name, which):
    """Only plain names get as far as ssh, be it the user's or the host's."""
    good = to("sftp://peer.example:22", jump=JUMP)
    host = getattr(good, which)
    bad_user = replace(good, **{which: replace(host, user=name)})
    bad_host = replace(good, **{which: replace(host, address=replace(host.address, host=name))})

    assert check(good)
    for bad in (bad_user, bad_host):
        with pytest.raises(ConfigError, match="expected only letters"):
            check(bad)


def test_a_hostile_address_is_refused_when_the_way_is_made(tmp_path):
    """An address may hide a lot behind percent signs."""
    address = "sftp://%2DoProxyCommand%3Dtouch%20x@peer.example:22"

    with pytest.raises(ConfigError, match="the user is '-oProxyCommand=touch x'"):
        SftpTransport(address, KEY, tmp_path / "key", "north", carrier="ssh")


@pytest.mark.parametrize("host", ["peer.example", "192.0.2.7", "[::1]", "xn--bcher-kva.example"])
def test_ordinary_hosts_pass(host):
    """Names and addresses of both kinds."""
    assert check(to(f"sftp://{host}:22"))


def test_the_host_comes_after_all_options(tmp_path):
    """Whatever it were, ssh would not read it as one."""
    arguments = command("ssh", to("sftp://peer.example:22"), Files(tmp_path))

    assert arguments[-4:] == ["-s", "--", "peer.example", "sftp"]


def test_the_way_through_a_jump_host_is_one_safe_command(tmp_path):
    """A shell finds in it the arguments that we meant, and nothing else to do but one redirection."""
    folder = tmp_path / "a folder; with $(signs) and 100%"
    arguments = command("/opt/my ssh/ssh", to("sftp://peer.example:22", jump=JUMP), Files(folder))
    proxy = next(part for part in arguments if part.startswith("ProxyCommand=")).removeprefix("ProxyCommand=")
    told, _, errors = proxy.replace("%%", "\0").partition(" 2>")
    expected = command("/opt/my ssh/ssh", to("sftp://gate@jump.example:2222"), Files(folder))

    parts = [part.replace("\0", "%") for part in shlex.split(told)]

    assert parts[0] == "/opt/my ssh/ssh"
    assert parts[-4:] == ["-W", "[%h]:%p", "--", "jump.example"]
    assert f"UserKnownHostsFile={folder / 'nnunet-gml-jump'}" in parts
    assert set(expected) - set(parts) == {
        "HostKeyAlias=nnunet-gml-peer",
        f"UserKnownHostsFile={folder / 'nnunet-gml-peer'}",
        "-s",
        "sftp",
    }
    assert shlex.split(errors.replace("\0", "%")) == [str(folder / "jump.err")]
    assert "%" not in proxy.replace("%%", "").replace("[%h]:%p", "")


def test_without_ssh_the_hint_says_what_to_do(monkeypatch, tmp_path):
    """At once, when the way is made."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="there is no ssh on PATH") as caught:
        SftpTransport("sftp://peer.example:22", KEY, tmp_path / "key", "north", carrier="ssh")
    assert "leave carrier out" in caught.value.hint


def test_a_temporary_folder_that_ssh_would_misread(monkeypatch):
    """ssh splits and expands what stands in a path."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp/100% mine")

    with pytest.raises(ConfigError, match="the temporary folder is"):
        check(to("sftp://peer.example:22"))


def test_another_host_key_is_refused(sshd, tmp_path):
    """As by the other carrier, with what ssh says about the key it saw."""
    transport = SftpTransport(
        sshd.address(tmp_path), generate_key(tmp_path / "other"), sshd.login_key, "x", carrier="ssh"
    )

    with pytest.raises(RejectedError, match=r"host key of sftp://.*, found SHA256:") as caught:
        transport.names()
    assert caught.value.rule == "host-key"
    transport.close()


def test_a_host_key_of_another_kind_is_refused(sshd, tmp_path):
    """The server has no such key: then it is not the pinned one."""
    blob = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\4" + bytes(64))
    line = f"ecdsa-sha2-nistp256 {base64.b64encode(blob).decode()}"
    transport = SftpTransport(sshd.address(tmp_path), line, sshd.login_key, "x", carrier="ssh")

    with pytest.raises(RejectedError) as caught:
        transport.names()
    assert caught.value.rule == "host-key"
    transport.close()


def test_a_refused_login_quotes_ssh(sshd, tmp_path):
    """The same sentence as by the other carrier, and ssh's own behind it."""
    generate_key(tmp_path / "stranger")
    transport = SftpTransport(
        sshd.address(tmp_path), sshd.host_key, tmp_path / "stranger", "x", carrier="ssh"
    )

    with pytest.raises(LoginError, match=r"expected a login as '\w+', found it refused: .*Permission denied"):
        transport.names()
    transport.close()


def test_what_ssh_says_is_escaped_and_short(monkeypatch, tmp_path):
    """Some of it comes from the other side."""
    script = r"printf '%0500d\nforged\033[2J line' 1 >&2; exit 255"
    transport = by_fake_ssh(monkeypatch, tmp_path, script)

    with pytest.raises(TransportError) as caught:
        transport.names()
    assert str(caught.value).isprintable()
    assert r"forged\x1b[2J line" in str(caught.value)
    assert len(str(caught.value)) < 400
    transport.close()


def test_endless_complaints_cost_nothing(monkeypatch, tmp_path):
    """ssh may say as much as it likes: nobody keeps it."""
    patience = Patience(connect_seconds=0.5, login_seconds=0.5)
    transport = by_fake_ssh(monkeypatch, tmp_path, "exec yes >&2", patience)
    started = time.monotonic()

    with pytest.raises(TransportError):
        transport.names()
    transport.close()
    assert time.monotonic() - started < 60


def test_an_endless_complaint_is_read_to_a_limit():
    """Without waiting for its end."""
    with Path("/dev/zero").open("rb") as endless:
        assert len(_said(endless.fileno(), 5)) <= MAX_SAID_BYTES + 4096


def by_fake_ssh(monkeypatch, folder: Path, script: str, patience: Patience | None = None) -> SftpTransport:
    """A way on which a shell script is the ssh."""
    fake_ssh(monkeypatch, folder, script)
    generate_key(folder / "key")
    return SftpTransport("sftp://peer.example:22", KEY, folder / "key", "north", patience, carrier="ssh")


def fake_ssh(monkeypatch, folder: Path, script: str) -> None:
    """Put another ssh on PATH."""
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_nothing_is_left_after_close(transport, monkeypatch, tmp_path):
    """No process, no zombie, no file, no descriptor; also after a failure."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "outbox"))
    before, descriptors = children(), open_files()
    transport.names()
    with pytest.raises(TransportError):
        transport.get("nothing", tmp_path / "target", 10)
    transport.names()
    assert children() > before

    transport.close()

    assert children() <= before
    assert open_files() <= descriptors
    assert list((tmp_path / "outbox").iterdir()) == []


def open_files() -> set[str]:
    """What this process has open: sockets and pipes by number, files by name."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(str(path.readlink()))
    return found


def test_a_stubborn_ssh_is_killed(monkeypatch, tmp_path):
    """With all that it has started."""
    before = children()
    script = f"trap '' TERM\nsleep 60 & echo $! > {tmp_path}/pid\nwhile :; do sleep 1; done"
    transport = by_fake_ssh(monkeypatch, tmp_path, script)

    def close() -> None:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        transport.close()

    threading.Thread(target=close, daemon=True).start()
    with pytest.raises(TransportError):
        transport.names()
    started = int((tmp_path / "pid").read_text())
    wait_for(lambda: children() <= before and not is_running(started))


def is_running(number: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{number}/status").read_text(), re.MULTILINE)
    except OSError:
        return False


def test_an_ssh_that_dies_is_replaced(transport, tmp_path):
    """Killed in the middle of a transfer: an error at once, and the next call goes on where it was."""
    content = os.urandom(30_000_000)
    (tmp_path / "outbox" / NAME).write_bytes(content)
    answer, asked = FileRequests.answer, []

    def killing(self: FileRequests, number: int) -> bytes:
        asked.append(number)
        if len(asked) == 5:
            transport._connection._child._process.kill()
        return answer(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileRequests, "answer", killing)
        with pytest.raises(TransportError):
            transport.get(NAME, tmp_path / "target", 10**8)
    assert 0 < (tmp_path / "target").stat().st_size < len(content)

    transport.get(NAME, tmp_path / "target", 10**8)

    assert (tmp_path / "target").read_bytes() == content


def test_the_users_ssh_config_leads_there(monkeypatch, sshd, tmp_path):
    """To a name that only ssh_config knows; the pinned key is still enforced."""
    (tmp_path / "config").write_text("Host peer\n  HostName 127.0.0.1\n")
    fake_ssh(monkeypatch, tmp_path, f'exec {SSH} -F {tmp_path}/config "$@"')
    address = f"sftp://{sshd.user}@peer:{sshd.port}{tmp_path}"
    good = SftpTransport(address, sshd.host_key, sshd.login_key, "x", carrier="ssh")
    bad = SftpTransport(address, generate_key(tmp_path / "other"), sshd.login_key, "x", carrier="ssh")

    assert "config" in good.names()
    with pytest.raises(RejectedError):
        bad.names()
    good.close()
    bad.close()


def test_a_key_that_only_the_agent_has(monkeypatch, tmp_path):
    """The file has a passphrase: ssh asks the agent for the key that the public line names."""
    if SSHD is None or shutil.which("ssh-agent") is None:
        pytest.skip("OpenSSH is not installed")
    with running_sshd(tmp_path / "sshd") as sshd, running_agent(tmp_path, "secret words") as agent:
        line = sshd.login_key.with_suffix(".pub").read_text().strip()
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret words", "-f", sshd.login_key], check=True)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        transport = SftpTransport(
            sshd.address(tmp_path), sshd.host_key, sshd.login_key, "x", key_line=line, carrier="ssh"
        )
        with pytest.raises(LoginError):
            transport.names()

        agent.run(sshd.login_key)

        assert "sshd" in transport.names()
        transport.close()


def test_a_key_that_others_can_read_is_not_used(transport, sshd):
    """The same error as with the other carrier, before anything is started."""
    sshd.login_key.chmod(0o644)

    with pytest.raises(ConfigError, match="can be read by others"):
        transport.names()


def test_silence_before_the_session_ends(tmp_path):
    """A server that accepts and never speaks is left in time."""
    generate_key(tmp_path / "key")
    patience = Patience(connect_seconds=1, login_seconds=1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"sftp://127.0.0.1:{deaf.getsockname()[1]}"
        transport = SftpTransport(address, KEY, tmp_path / "key", "north", patience, carrier="ssh")
        started = time.monotonic()

        with pytest.raises(TransportError):
            transport.names()
    transport.close()
    assert time.monotonic() - started < 60
