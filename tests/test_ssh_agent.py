"""Keys with a passphrase, and keys that only ssh-agent has."""

from __future__ import annotations

import base64
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paramiko
import pytest
from courier_kit import PLANS, SCHEMA, SIZES, build_sites, offer, running_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sshd_kit import SSHD, Agent, running_agent, running_sshd

from peer_sync import identity, ssh_agent
from peer_sync.errors import ConfigError, TransportError
from peer_sync.mailbox import Mailbox
from peer_sync.openssh import blob_of, line_of, string
from peer_sync.routes import way_to
from peer_sync.server.embedded import Server
from peer_sync.site import load_site
from peer_sync.ssh import LoginKey
from peer_sync.transport.sftp import SftpTransport

PASSPHRASE = "correct horse"
NO_KEYS = bytes([12]) + bytes(4)

needs_openssh = pytest.mark.skipif(
    not all(map(shutil.which, ("ssh-agent", "ssh-add", "ssh-keygen"))), reason="OpenSSH is not installed"
)


@pytest.fixture
def agent(tmp_path_factory, monkeypatch) -> Iterator[Agent]:
    """A running ssh-agent without keys, the one of this process."""
    with running_agent(tmp_path_factory.mktemp("a"), PASSPHRASE) as running:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(running.socket))
        yield running


@pytest.fixture
def locked(tmp_path) -> tuple[Path, str]:
    """A key that ssh-keygen made, with a passphrase, and its public line."""
    return new_key(tmp_path / "locked")


def new_key(path: Path, *options: str, passphrase: str = PASSPHRASE) -> tuple[Path, str]:
    keygen("-t", "ed25519", "-N", passphrase, "-C", "north", *options, "-f", str(path))
    return path, path.with_name(path.name + ".pub").read_text()


def keygen(*arguments: str) -> None:
    done = subprocess.run(["ssh-keygen", "-q", *arguments], capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr


def refusal(path: Path, line: str = "") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        identity.load_site_key(path, line)
    assert caught.value.hint
    return caught.value


@needs_openssh
def test_a_key_of_ssh_keygen_without_passphrase_needs_no_agent(tmp_path, monkeypatch):
    """The file will do."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    path, line = new_key(tmp_path / "plain", passphrase="")

    key = identity.load_site_key(path, line)

    identity.verify(line, b"facts", identity.sign(key, b"facts"))


@needs_openssh
@pytest.mark.parametrize("cipher", ["aes256-ctr", "chacha20-poly1305@openssh.com"])
def test_a_key_with_a_passphrase_signs_through_the_agent(tmp_path, agent, cipher):
    """Whatever hides the file; the line is the federation's, with or without a comment."""
    path, line = new_key(tmp_path / "locked", "-Z", cipher)
    agent.run(path)

    key = identity.load_site_key(path, line)

    identity.verify(line, b"facts", identity.sign(key, b"facts"))
    assert key.line == " ".join(line.split()[:2])


@needs_openssh
@pytest.mark.parametrize("suffix", ["", ".pub"])
def test_a_key_that_only_the_agent_has_is_named_by_its_public_half(agent, locked, suffix):
    """As for a token: there is PATH.pub and no PATH; site.toml may say either."""
    path, line = locked
    agent.run(path)
    path.unlink()

    key = identity.load_site_key(f"{path}{suffix}", line)

    identity.verify(line, b"facts", identity.sign(key, b"facts"))


@needs_openssh
def test_the_agents_other_keys_are_not_taken(tmp_path, agent, locked):
    """Only the one that the federation knows signs; the message has the command to type."""
    other, _ = new_key(tmp_path / "other")
    agent.run(other)

    error = refusal(*locked)

    assert "found 1 other keys" in str(error)
    assert error.hint.startswith(f"ssh-add {locked[0]}")
    locked[0].unlink()
    assert "its token" in refusal(*locked).hint
    assert "its token" in refusal(Path(f"{locked[0]}.pub"), locked[1]).hint


@needs_openssh
@pytest.mark.parametrize("has_private", [True, False])
def test_another_key_than_the_federations_is_said_before_the_agent_is_asked(
    tmp_path, locked, monkeypatch, has_private
):
    """A file shows its public half without the passphrase."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    _, expected = new_key(tmp_path / "other")
    if not has_private:
        locked[0].unlink()

    error = refusal(locked[0], expected)

    assert "but federation.toml expects" in str(error)
    assert expected.strip() in str(error)


@needs_openssh
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_another_kind_of_key_is_refused(tmp_path, kind):
    """With its private half or without."""
    keygen("-t", kind, "-N", PASSPHRASE, "-f", str(tmp_path / "key"))

    assert "is not an ed25519 key" in str(refusal(tmp_path / "key"))
    (tmp_path / "key").unlink()
    assert "is not an ed25519 key" in str(refusal(tmp_path / "key"))


LONG_KEY = line_of(string(b"ssh-ed25519") + string(bytes(33)))


@pytest.mark.parametrize(
    "content", [b"", b"ssh-ed25519", b"ssh-ed25519 !", b"\xff\xfe", b"ssh-ed25519 AAAA", LONG_KEY.encode()]
)
def test_a_public_file_that_is_none_is_refused(tmp_path, content):
    """Not a crash."""
    (tmp_path / "north.pub").write_bytes(content)

    assert "north.pub is not an ed25519 key" in str(refusal(tmp_path / "north"))


def test_a_private_file_of_another_format_is_refused(tmp_path):
    """Though its fields read like those of a key with a passphrase."""
    line = identity.generate_key(tmp_path / "north")
    fields = string(b"aes256-ctr") + string(b"bcrypt") + string(b"") + bytes(4) + string(blob_of(line))
    body = base64.b64encode(b"another-key-v1\0" + fields).decode()
    path = tmp_path / "north"
    for content in (body, body[:24], ""):
        path.write_text(
            f"-----BEGIN OPENSSH PRIVATE KEY-----\n{content}\n-----END OPENSSH PRIVATE KEY-----\n"
        )

        assert "another format" in str(refusal(path))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=st.binary(max_size=120), position=st.integers(0, 400))
def test_a_damaged_key_file_is_refused(tmp_path, content, position):
    """Whatever stands in it."""
    path = tmp_path / "north"
    if not path.exists():
        identity.generate_key(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + content + whole[position + max(1, len(content)) :])

    with suppress(ConfigError):
        identity.load_site_key(path)
    path.write_bytes(whole)


@needs_openssh
def test_a_key_with_a_passphrase_that_others_can_read_is_refused(agent, locked):
    """A passphrase can be guessed by whoever has the file."""
    agent.run(locked[0])
    locked[0].chmod(0o644)

    assert "can be read by others" in str(refusal(*locked))


@needs_openssh
@pytest.mark.parametrize("place", [None, "/nowhere/agent"])
def test_without_an_agent_the_message_says_what_to_type(monkeypatch, locked, place):
    """The two commands, with the file's name."""
    if place is None:
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    else:
        monkeypatch.setenv("SSH_AUTH_SOCK", place)

    error = refusal(*locked)

    assert ("SSH_AUTH_SOCK is not set" if place is None else "/nowhere/agent: No such file") in str(error)
    assert error.hint == f'eval "$(ssh-agent)"; ssh-add {locked[0]}'


@needs_openssh
def test_a_locked_agent_signs_nothing(agent, locked):
    """It was there when the training began; later it may be open again."""
    agent.run(locked[0])
    key = identity.load_site_key(*locked)
    agent.run("-x")

    with pytest.raises(TransportError, match=r"did not sign .*: it refused"):
        identity.sign(key, b"facts")
    agent.run("-X")
    identity.verify(locked[1], b"facts", identity.sign(key, b"facts"))


@contextmanager
def answering(path: Path, *answers: bytes, seconds: float = 0) -> Iterator[None]:
    """An agent that gives these bytes, one after the other connection; then it says nothing."""

    def serve() -> None:
        for answer in answers:
            talk, _ = listener.accept()
            made.append(talk)
            with suppress(OSError):
                for start in range(0, len(answer), step):
                    time.sleep(seconds)
                    talk.sendall(answer[start : start + step])
                if len(answer) < 4:
                    talk.recv(1000)
                    talk.close()

    made: list[socket.socket] = []
    step = 3 if seconds else 1000
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(10)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(60)
        for talk in made:
            talk.close()


@pytest.fixture
def fake(tmp_path_factory, monkeypatch) -> Path:
    """Where an agent of ours listens."""
    path = tmp_path_factory.mktemp("a") / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    return path


def key_list(*lines: str) -> bytes:
    """An agent's list of these keys."""
    entries = b"".join(string(blob_of(line)) + string(b"") for line in lines)
    return string(bytes([12]) + struct.pack(">I", len(lines)) + entries)


@needs_openssh
@pytest.mark.parametrize(
    ("answers", "seconds", "found"),
    [
        ((), 0, "no answer within 1 s"),
        ((b"\0\0\0\x09" + NO_KEYS[:3],), 0, "no answer within 1 s"),
        ((string(NO_KEYS * 40),), 0.05, "no answer within 1 s"),
        ((struct.pack(">I", 1 << 31) + bytes(100),), 0, "expected at most 262144"),
        ((string(b""),), 0, "it refused"),
        ((string(b"\x05"),), 0, "it refused"),
        ((b"",), 0, "it ended the connection"),
        ((b"\0\0",), 0, "it ended the connection"),
        ((string(b"\x0c"),), 0, "found 0 other keys"),
        ((string(b"\x0c\xff\xff\xff\xff" + bytes(40)),), 0, "too few bytes"),
        ((string(NO_KEYS),), 0, "found 0 other keys"),
    ],
    ids=[
        "deaf",
        "half",
        "trickle",
        "huge",
        "empty",
        "failure",
        "closed",
        "closed soon",
        "no count",
        "many",
        "none",
    ],
)
def test_an_agent_that_answers_badly_is_left_in_time(fake, locked, answers, seconds, found, monkeypatch):
    """With a message, not with a hang."""
    if found == "no answer within 1 s":
        monkeypatch.setattr(ssh_agent, "ANSWER_SECONDS", 1.0)
    with answering(fake, *answers, seconds=seconds):
        started = time.monotonic()

        assert found in str(refusal(*locked))
        assert time.monotonic() - started < 60


@needs_openssh
def test_an_agent_that_takes_nobody_in_is_left_in_time(fake, locked, monkeypatch):
    """Its queue is full: without a limit that would be a wait for ever."""
    monkeypatch.setattr(ssh_agent, "ANSWER_SECONDS", 1.0)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(fake))
        listener.listen(0)
        first.connect(str(fake))
        started = time.monotonic()

        refusal(*locked)
        assert time.monotonic() - started < 60


def test_the_time_for_an_answer_is_ten_seconds():
    """Long enough for a touch of a token, short enough for a login."""
    assert ssh_agent.ANSWER_SECONDS == 10


def test_a_signature_by_another_key_is_not_passed_on(tmp_path, fake):
    """An agent that signs with the wrong key, or anything but ed25519, is found out here."""
    line = identity.generate_key(tmp_path / "north")
    identity.generate_key(tmp_path / "other")
    other = identity.load_private_key(tmp_path / "other").sign(b"facts")
    (tmp_path / "north").unlink()
    good_form = string(b"\x0e" + string(string(b"ssh-ed25519") + string(other)))
    bad_form = string(b"\x0e" + string(string(b"ssh-rsa") + string(other)))

    with answering(fake, key_list(line), good_form, bad_form):
        key = identity.load_site_key(tmp_path / "north", line)
        with pytest.raises(TransportError, match="its signature is not by this key"):
            key.sign(b"facts")
        with pytest.raises(TransportError, match="its signature is not ed25519"):
            key.sign(b"facts")


@needs_openssh
@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
def test_the_agents_key_logs_in(tmp_path, agent, monkeypatch):
    """At a real server; the library gets the key and never the secret."""
    with running_sshd(tmp_path / "server") as server:
        keygen("-p", "-N", PASSPHRASE, "-f", str(server.login_key))
        line = (tmp_path / "server/login.pub").read_text()
        agent.run(server.login_key)
        (tmp_path / "outbox").mkdir()
        (tmp_path / "outbox/file").write_bytes(b"x")
        address = server.address(tmp_path / "outbox")
        transport = SftpTransport(address, server.host_key, server.login_key, "x", key_line=line)

        assert transport.names() == ["file"]
        transport.close()
        monkeypatch.delenv("SSH_AUTH_SOCK")
        with pytest.raises(ConfigError, match="must come from ssh-agent"):
            transport.names()
        transport.close()


@needs_openssh
def test_an_agent_that_fails_in_a_login_is_named(served_sites, server, fake):
    """Not: the peer does not know our key."""
    site, south = served_sites["north"], served_sites["south"]
    line = site.member.public_key
    site.private_key.rename(site.private_key.with_name("away"))

    with answering(fake, key_list(line), string(b"\x05")):
        transport = SftpTransport(
            south.member.address, south.member.host_key, site.private_key, "north", key_line=line
        )
        with pytest.raises(TransportError, match="ssh-agent did not sign"):
            transport.names()
        transport.close()


@needs_openssh
def test_the_login_key_says_what_it_is(tmp_path):
    """Type, public half and a signature that the library checks."""
    line = identity.generate_key(tmp_path / "key")
    key = LoginKey(identity.load_site_key(tmp_path / "key"))

    assert (key.get_name(), key.asbytes(), key.can_sign()) == ("ssh-ed25519", blob_of(line), True)
    signature = key.sign_ssh_data(b"data", "ssh-ed25519").asbytes()
    assert paramiko.Ed25519Key(data=blob_of(line)).verify_ssh_sig(b"data", paramiko.Message(signature))


@needs_openssh
def test_sites_with_a_passphrase_exchange(tmp_path, agent):
    """Both offer, and each collects from the other's server: site.toml names the file, as ever."""
    names = ("north", "south")
    build_sites(tmp_path, names, served=True)
    for name in names:
        path = tmp_path / "keys" / name
        keygen("-p", "-N", PASSPHRASE, "-f", str(path))
        agent.run(path)
    (tmp_path / "keys/south").unlink()
    sites = {name: load_site(tmp_path / f"{name}.toml") for name in names}
    mailboxes = {name: Mailbox(site) for name, site in sites.items()}

    for ours, other in (names, names[::-1]):
        offer(mailboxes[other])
        with running_server(Server(sites[other])):
            transport = way_to(sites[ours], other)
            delivery = mailboxes[ours].collect(other, transport, PLANS, SCHEMA, SIZES, 1)
            transport.close()
        assert delivery.payload.read_bytes() == b"weights" * 100

    for mailbox in mailboxes.values():
        mailbox.close()


@needs_openssh
def test_a_site_is_read_without_its_agent_but_offers_nothing(tmp_path, monkeypatch):
    """The server and the status command need no signature; an offer says what is missing."""
    build_sites(tmp_path)
    keygen("-p", "-N", PASSPHRASE, "-f", str(tmp_path / "keys/north"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    mailbox = Mailbox(load_site(tmp_path / "north.toml"))

    with pytest.raises(ConfigError, match="must come from ssh-agent"):
        offer(mailbox)
    assert list(mailbox.outbox.iterdir()) == []
    mailbox.close()
