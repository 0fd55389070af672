"""Together with OpenSSH's own programs: sshd as examples/sshd shows it, sftp, ssh-keygen."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest
from courier_kit import PLANS, SCHEMA, SIZES, collect, federation_text, member_text, offer
from sshd_kit import SSHD, running_agent, serving

import peer_sync
from peer_sync.errors import RejectedError, TransportError
from peer_sync.identity import generate_key
from peer_sync.mailbox import Mailbox
from peer_sync.names import manifest_name, signature_name
from peer_sync.routes import way_to, way_to_relay
from peer_sync.site import Site, load_site
from peer_sync.transport.sftp import SftpTransport

EXAMPLE = Path(__file__).parents[1] / "examples/sshd"
PROTOCOL = Path(peer_sync.__file__).with_name("PROTOCOL.md")
IS_ROOT = os.geteuid() == 0

if not EXAMPLE.exists():
    pytest.skip("the tests run without the repository", allow_module_level=True)

needs_sshd = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can chroot")
needs_sftp = pytest.mark.skipif(shutil.which("sftp") is None, reason="sftp is not installed")
needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def command_in(page: Path, start: str) -> str:
    """The line of a page that starts so: what a reader would paste."""
    (line,) = (line for line in page.read_text().splitlines() if line.startswith(start))
    return line


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@dataclass
class Stock:
    """An sshd with the lines of the example, and two sites, of which south's outbox is behind it."""

    chroot: Path
    port: int
    user: str
    sites: dict[str, Site]

    @property
    def outbox(self) -> Path:
        return self.chroot / "outbox"

    @property
    def secret(self) -> Path:
        """A file beside the chroot that everybody on that machine can read."""
        return self.chroot.with_name("secret")

    def seen(self, path: Path) -> str:
        """What a path is called by whoever logs in."""
        return f"/{path.relative_to(self.chroot)}" if IS_ROOT else str(path)


def example(folder: Path, user: str) -> str:
    """The example's lines; only names and paths are replaced, and without root there is no chroot."""
    lines = (EXAMPLE / "sshd_config").read_text().splitlines(keepends=True)
    assert len(lines) == 12
    text = "".join(line for line in lines if IS_ROOT or "ChrootDirectory" not in line)
    for name, ours in (
        ("User gml", f"User {user}"),
        ("/etc/ssh/gml_peers", f"{folder}/peers"),
        ("/srv/gml", f"{folder}/chroot"),
    ):
        assert name in text or not IS_ROOT
        text = text.replace(name, ours)
    return text if IS_ROOT else f"StrictModes no\n{text}"


def build(folder: Path, stock: Stock) -> dict[str, Site]:
    """Two sites: north can be read in its folder, south's copy is behind the server."""
    keys = {name: generate_key(folder / name, name) for name in ("north", "south")}
    scan = command_in(EXAMPLE / "README.md", "ssh-keyscan").replace("gml.north.example", "127.0.0.1")
    host_key = shell(scan.replace("-p 22", f"-p {stock.port}"), folder).strip()
    address = f"sftp://{stock.user}@127.0.0.1:{stock.port}{stock.seen(stock.outbox)}"
    members = [
        member_text("north", keys["north"], f"folder:{folder}/north_mail/outbox"),
        member_text("south", keys["south"], address, host_key=host_key),
    ]
    (folder / "federation.toml").write_text(federation_text(members))
    for name in keys:
        relay = f'relay = "folder:{stock.outbox}"\n' if name == "south" else ""
        (folder / f"{name}.toml").write_text(
            f'site = "{name}"\nprivate_key = "{name}"\nfolder = "{name}_mail"\n'
            f'federation = "federation.toml"\n{relay}'
        )
    return {name: load_site(folder / f"{name}.toml") for name in keys}


@pytest.fixture
def stock(tmp_path) -> Iterator[Stock]:
    """As root really in a chroot, which must lie where only root can write: not in /tmp."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    user = "nobody" if IS_ROOT else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="gml-", dir="/run" if IS_ROOT else tmp_path))
    try:
        folder.chmod(0o755)
        outbox = folder / "chroot/outbox"
        outbox.mkdir(parents=True)
        outbox.chmod(0o2770)
        os.chown(outbox, -1, pwd.getpwnam(user).pw_gid)
        with serving(folder, example(folder, user)) as (port, _):
            made = Stock(folder / "chroot", port, user, {})
            made.secret.write_text("secret")
            made.secret.chmod(0o644)
            made.sites = build(tmp_path, made)
            peers = command_in(EXAMPLE / "README.md", "sed").replace("/etc/ssh/gml_peers", f"{folder}/peers")
            shell(peers, tmp_path)
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def stocked(stock) -> Iterator[dict[str, Mailbox]]:
    """Of both sites; south has offered, and the copy is where peers can read it."""
    opened = {name: Mailbox(site) for name, site in stock.sites.items()}
    offer(opened["south"])
    relay = way_to_relay(stock.sites["south"])
    assert relay is not None
    opened["south"].publish(relay)
    yield opened
    for mailbox in opened.values():
        mailbox.close()


@pytest.fixture
def guest(stock, stocked) -> Iterator[paramiko.Transport]:
    """North, logged in with a client that tries everything."""
    transport = paramiko.Transport(("127.0.0.1", stock.port))
    transport.start_client(timeout=60)
    key = paramiko.Ed25519Key(filename=str(stock.sites["north"].private_key))
    transport.auth_publickey(stock.user, key)
    yield transport
    transport.close()


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: mode and content."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_a_site_collects_from_a_stock_sshd(stock, stocked):
    """Offered, copied into the chroot, and fetched with every check."""
    transport = way_to(stock.sites["north"], "south")
    delivery = stocked["north"].collect("south", transport, PLANS, SCHEMA, SIZES, 1)
    transport.close()

    assert delivery.payload.read_bytes() == b"weights" * 100
    assert delivery.manifest.site == "south"


@needs_sshd
def test_other_accounts_of_the_server_are_not_touched(tmp_path):
    """In the folder that sshd_config includes, as the page says: the block ends with its file."""
    generate_key(tmp_path / "host")
    (tmp_path / "empty").write_text("")
    shutil.copy(EXAMPLE / "sshd_config", tmp_path / "gml.conf")

    def settings(included: str, user: str) -> str:
        (tmp_path / "config").write_text(f"Include {tmp_path / included}\nHostKey {tmp_path / 'host'}\n")
        return shell(f"{SSHD} -T -f {tmp_path / 'config'} -C user={user},host=x,addr=192.0.2.1", tmp_path)

    assert settings("gml.conf", "root") == settings("empty", "root")
    assert "chrootdirectory /srv/gml\n" in settings("gml.conf", "gml")


def test_a_site_that_is_not_in_the_file_cannot_log_in(stock, stocked, tmp_path):
    """Its key is good, but nobody knows it."""
    generate_key(tmp_path / "stranger")
    south = stock.sites["south"].member
    transport = SftpTransport(south.address, south.host_key, tmp_path / "stranger", "x")

    with pytest.raises(TransportError, match="found it refused"):
        transport.names()
    transport.close()


def test_a_site_that_left_the_file_cannot_log_in(stock, stocked):
    """The next login fails, without a restart of sshd."""
    transport = way_to(stock.sites["north"], "south")
    assert transport.names()
    transport.close()
    peers = stock.chroot.with_name("peers")
    assert peers.read_text().count("restrict ssh-ed25519 AAAA") == 2

    peers.write_text(peers.read_text().splitlines()[1] + "\n")

    with pytest.raises(TransportError, match="found it refused"):
        transport.names()
    transport.close()


def test_our_own_way_cannot_put_through_it(stock, stocked, tmp_path):
    """The folder's rights would allow it; sshd does not."""
    (tmp_path / "file").write_bytes(b"new")
    before, transport = tree(stock.chroot), way_to(stock.sites["north"], "south")

    with pytest.raises(TransportError, match="Permission denied"):
        transport.put(tmp_path / "file", manifest_name(9))
    transport.close()
    assert tree(stock.chroot) == before


WRITES: dict[str, Callable[[paramiko.SFTPClient, str, str], object]] = {
    "open": lambda client, folder, name: client.open(f"{folder}/new", "w"),
    "append": lambda client, folder, name: client.open(f"{folder}/{name}", "a"),
    "truncate": lambda client, folder, name: client.truncate(f"{folder}/{name}", 0),
    "remove": lambda client, folder, name: client.remove(f"{folder}/{name}"),
    "rename": lambda client, folder, name: client.rename(f"{folder}/{name}", f"{folder}/new"),
    "posix rename": lambda client, folder, name: client.posix_rename(f"{folder}/{name}", f"{folder}/new"),
    "mkdir": lambda client, folder, name: client.mkdir(f"{folder}/new"),
    "symlink": lambda client, folder, name: client.symlink("/etc/passwd", f"{folder}/new"),
    "chmod": lambda client, folder, name: client.chmod(f"{folder}/{name}", 0o777),
    "utime": lambda client, folder, name: client.utime(f"{folder}/{name}", (1, 1)),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_peer_cannot_change_anything(stock, guest, kind):
    """The account owns the files here and may write the folder: only `-R` stands against it."""
    account = pwd.getpwnam(stock.user)
    for path in stock.outbox.iterdir():
        os.chown(path, account.pw_uid, account.pw_gid)
    before = tree(stock.chroot)
    client = paramiko.SFTPClient.from_transport(guest)

    with pytest.raises(OSError, match="Permission denied"):
        WRITES[kind](client, stock.seen(stock.outbox), manifest_name(1))
    assert tree(stock.chroot) == before


@needs_root
def test_a_peer_sees_the_outbox_and_nothing_else(stock, guest):
    """The root is the chroot, and neither `..`, nor a full path, nor a link leads out of it."""
    (stock.outbox / "link").symlink_to(stock.secret)
    (stock.outbox / "up").symlink_to("../../secret")
    client = paramiko.SFTPClient.from_transport(guest)

    assert client.listdir("/") == ["outbox"]
    assert sorted(client.listdir("/../..")) == ["outbox"]
    for path in (
        str(stock.secret),
        "/../secret",
        "/outbox/../../secret",
        "/outbox/link",
        "/outbox/up",
        "/etc/passwd",
    ):
        with pytest.raises(FileNotFoundError):
            client.open(path).read()
    assert client.open(f"/outbox/{manifest_name(1)}").read() == (stock.outbox / manifest_name(1)).read_bytes()


def test_a_peer_gets_no_shell_no_terminal_and_no_tunnel(guest):
    """Whatever is asked for is SFTP or nothing."""
    channel = guest.open_session()
    channel.exec_command("id")
    with suppress(OSError):  # the server may have closed the channel already
        channel.sendall(b"id\n")
        channel.shutdown_write()
    assert b"uid" not in channel.makefile("rb").read()
    with pytest.raises(paramiko.SSHException):
        guest.open_session().get_pty()
    with pytest.raises(paramiko.ChannelException):
        guest.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1))
    with pytest.raises(paramiko.SSHException):
        guest.request_port_forward("127.0.0.1", 0)


def sftp(site: Site, peer: Site, batch: str, folder: Path) -> subprocess.CompletedProcess:
    """OpenSSH's own client at a peer's embedded server."""
    host, port = peer.listen
    (folder / "known").write_text(f"[{host}]:{port} {peer.member.host_key}\n")
    options = (
        *("IdentitiesOnly=yes", "IdentityAgent=none", f"IdentityFile={site.private_key}", "BatchMode=yes"),
        *(f"UserKnownHostsFile={folder / 'known'}", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes"),
    )
    given = [word for option in options for word in ("-o", option)]
    return subprocess.run(
        ["sftp", "-F", "none", "-b", "-", *given, "-P", str(port), f"{site.name}@{host}"],
        input=batch.encode(),
        cwd=folder,
        capture_output=True,
        timeout=120,
    )


@pytest.fixture
def offered(served_sites, server) -> Site:
    """South with two offers, one of more than one request, behind its embedded server."""
    mailbox = Mailbox(served_sites["south"])
    offer(mailbox)
    offer(mailbox, os.urandom(3_000_001))
    mailbox.close()
    return served_sites["south"]


@needs_sftp
def test_openssh_reads_the_whole_outbox_of_the_embedded_server(served_sites, offered, tmp_path):
    """List, and get of everything: each byte."""
    target = tmp_path / "got"
    target.mkdir()

    done = sftp(served_sites["north"], offered, f"ls -1\nget -p * {target}\n", tmp_path)

    assert done.returncode == 0, done.stderr
    expected = {path.name: path.read_bytes() for path in (offered.folder / "outbox").iterdir()}
    assert len(expected) == 6
    assert {path.name: path.read_bytes() for path in target.iterdir()} == expected
    assert all(name in done.stdout.decode() for name in expected)


@needs_sftp
@pytest.mark.parametrize(
    "command",
    [
        "put known new",
        f"put known {manifest_name(1)}",
        f"reput known {manifest_name(1)}",
        f"rm {manifest_name(1)}",
        "mkdir new",
        "rmdir .",
        "ln -s /etc/passwd new",
        f"ln {manifest_name(1)} new",
        f"rename {manifest_name(1)} new",
        f"chmod 777 {manifest_name(1)}",
    ],
)
def test_openssh_cannot_change_the_outbox_of_the_embedded_server(served_sites, offered, tmp_path, command):
    """Each is an error to the client, and everything is as before."""
    before = tree(offered.folder / "outbox")

    done = sftp(served_sites["north"], offered, f"ls\n{command}\n", tmp_path)

    assert done.returncode == 1
    assert manifest_name(1) in done.stdout.decode(), done.stderr
    assert tree(offered.folder / "outbox") == before


@needs_keygen
def test_a_manifest_can_be_checked_by_hand(north, south, sites):
    """With the command that PROTOCOL.md shows, and with nothing of ours."""
    manifest = offer(south)
    (south.outbox / "signers").write_text(f"south {sites['south'].member.public_key}\n")
    command = command_in(PROTOCOL, "ssh-keygen -Y verify").replace("SITE", "south")
    command = command.replace("0000000042", f"{manifest.sequence:010d}")

    assert 'Good "nnunet-gml" signature for south' in shell(command, south.outbox)
    path = south.outbox / manifest_name(manifest.sequence)
    path.write_bytes(path.read_bytes().replace(b'"epoch":50', b'"epoch":51'))
    with pytest.raises(AssertionError, match="incorrect signature"):
        shell(command, south.outbox)


@needs_keygen
@pytest.mark.parametrize("holder", ["file", "agent"])
def test_a_manifest_that_ssh_keygen_signed_is_accepted(
    north, south, sites, holder, tmp_path_factory, monkeypatch
):
    """Made by hand, with the key's file or with a key that only ssh-agent has."""
    manifest, key = offer(south), sites["south"].private_key
    (south.outbox / signature_name(manifest.sequence)).unlink()
    sign = f"ssh-keygen -Y sign -n nnunet-gml -f {key}{{}} {manifest_name(manifest.sequence)}"

    if holder == "file":
        shell(sign.format(""), south.outbox)
    else:
        with running_agent(tmp_path_factory.mktemp("a"), "") as agent:
            agent.run(key)
            key.unlink()
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
            shell(sign.format(".pub"), south.outbox)

    assert collect(north, south).manifest == manifest


@needs_keygen
def test_a_manifest_that_another_key_signed_is_refused(north, south, sites, tmp_path):
    """ssh-keygen signs whatever it is given."""
    manifest = offer(south)
    generate_key(tmp_path / "other")
    (south.outbox / signature_name(manifest.sequence)).unlink()
    name = manifest_name(manifest.sequence)
    shell(f"ssh-keygen -Y sign -n nnunet-gml -f {tmp_path / 'other'} {name}", south.outbox)

    with pytest.raises(RejectedError) as caught:
        collect(north, south)
    assert caught.value.rule == "signature"
