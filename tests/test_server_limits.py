"""What the usual recipe for an embedded SFTP server leaves open: each hole attacked over the wire."""

from __future__ import annotations

import platform
import random
import resource
import socket
import struct
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import paramiko
import pytest
from courier_kit import running_server
from paramiko.sftp import CMD_READ, CMD_SETSTAT, CMD_SYMLINK, int64

from peer_sync.names import manifest_name
from peer_sync.routes import way_to
from peer_sync.server.answering import MAX_HANDLES
from peer_sync.server.embedded import KEX, Server
from peer_sync.server.guest import MAX_CHANNELS
from peer_sync.server.process import ServerProcess
from peer_sync.server.reception import Limits
from peer_sync.ssh import CIPHERS, DIGESTS

NAME = manifest_name(1)
CIPHERS_TEXT, DIGESTS_TEXT = ",".join(CIPHERS), ",".join(DIGESTS)


def fill(site) -> None:
    """One published file, and a secret beside the outbox."""
    (site.folder / "outbox").mkdir(parents=True, exist_ok=True)
    (site.folder / "outbox" / NAME).write_bytes(b"x" * 1_000_000)
    (site.folder / "secret").write_bytes(b"secret")


@pytest.fixture
def south(served_sites, server):
    """The attacked site, its server in a thread."""
    fill(served_sites["south"])
    return served_sites["south"]


@pytest.fixture
def strict(served_sites, request):
    """The same with other limits."""
    fill(served_sites["south"])
    with running_server(Server(served_sites["south"], request.param)):
        yield served_sites["south"]


def limited(**limits):
    """A test whose server has these limits, and those of earnest else."""
    return pytest.mark.parametrize("strict", [Limits(**limits)], indirect=True, ids=[""])


@pytest.fixture
def process(served_sites):
    """South's server as the process it is in earnest."""
    fill(served_sites["south"])
    process = ServerProcess(served_sites["south"])
    yield process
    process.stop()


@contextmanager
def logged_in(site, key: Path):
    """A raw connection of a peer."""
    transport = paramiko.Transport(socket.create_connection(site.listen, timeout=60))
    try:
        transport.start_client(timeout=60)
        transport.auth_publickey("anyone", paramiko.Ed25519Key(filename=str(key)))
        yield transport
    finally:
        transport.close()


def key_of(sites) -> Path:
    """The attacker's good key."""
    return sites["north"].private_key


def can_read(site, key: Path) -> bool:
    """Whether an honest peer is served."""
    with logged_in(site, key) as transport, paramiko.SFTPClient.from_transport(transport) as sftp:
        return sftp.open(NAME).read(3) == b"xxx"


def ends(look, seconds: float = 60) -> bool:
    """Whether ``look`` gets true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.05)
    return False


def hung_up(sock: socket.socket) -> bool:
    """Whether the server has ended the connection."""
    sock.settimeout(0.05)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def offered(site) -> list[str]:
    """The ten lists of algorithms in the server's first packet."""
    with socket.create_connection(site.listen, timeout=60) as sock:
        sock.sendall(b"SSH-2.0-anybody\r\n")
        stream = sock.makefile("rb")
        assert stream.readline().startswith(b"SSH-2.0-")
        length, padding = struct.unpack(">IB", stream.read(5))
        payload = stream.read(length - 1)[: length - 1 - padding]
    message = paramiko.Message(payload[17:])
    assert payload[0] == 20
    return [message.get_text() for _ in range(10)]


def test_only_strong_algorithms_are_offered(south):
    """No SHA-1, no CBC, no MD5, no 3DES, no finite field, no compression: the whole offer is this."""
    kex, host_keys, *rest = offered(south)

    assert {name for name in kex.split(",") if "strict" not in name and "ext-info" not in name} <= set(KEX)
    assert host_keys == "ssh-ed25519"
    assert rest[:4] == [CIPHERS_TEXT, CIPHERS_TEXT, DIGESTS_TEXT, DIGESTS_TEXT]
    assert rest[4:] == ["none", "none", "", ""]


def test_setstat_keeps_the_file(south, served_sites):
    """Size 500,000 on 1,000,000 bytes: the stock recipe empties it."""
    size = paramiko.SFTPAttributes()
    size.st_size = size._flags = 500_000
    size._flags = size.FLAG_SIZE
    with logged_in(south, key_of(served_sites)) as transport:
        sftp = paramiko.SFTPClient.from_transport(transport)
        with pytest.raises(OSError):
            sftp._request(CMD_SETSTAT, NAME, size)

    assert (south.folder / "outbox" / NAME).stat().st_size == 1_000_000


def test_no_link_is_made_and_none_is_followed(south, served_sites):
    """Neither by the protocol's own request nor one that was planted before."""
    (south.folder / "outbox" / manifest_name(2)).symlink_to(south.folder / "secret")
    with logged_in(south, key_of(served_sites)) as transport:
        sftp = paramiko.SFTPClient.from_transport(transport)
        for source in ("../secret", "/etc/passwd"):
            with pytest.raises(OSError):
                sftp._request(CMD_SYMLINK, source, manifest_name(3))
        with pytest.raises(FileNotFoundError):
            sftp.open(manifest_name(2))

    assert sorted(path.name for path in (south.folder / "outbox").iterdir()) == [NAME, manifest_name(2)]


def memory_kib(pid: int, what: str) -> int:
    """A line of the process's status, such as VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise AssertionError(what)


@pytest.mark.skipif(sys.platform != "linux", reason="memory of another process is read from /proc")
def test_reads_of_four_gibibytes_cost_no_memory(process, served_sites):
    """A thousand of them at once, whose answers nobody takes: the stock recipe took 1.6 GB for one."""
    south = served_sites["south"]
    with (south.folder / "outbox" / NAME).open("r+b") as file:
        file.truncate(4 << 30)
    before = memory_kib(process.pid, "VmHWM")
    with logged_in(south, key_of(served_sites)) as transport:
        sftp = paramiko.SFTPClient.from_transport(transport)
        file = sftp.open(NAME)
        for number in range(1000):
            sftp._async_request(file, CMD_READ, file.handle, int64(number << 20), 0xFFFFFFFF)
        time.sleep(2)

        assert memory_kib(process.pid, "VmHWM") - before < 16 * 1024
    assert can_read(south, key_of(served_sites))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's way with freed memory")
def test_answers_use_the_same_memory_again(process, served_sites, tmp_path):
    """32 MB in large answers: 60,000 fresh pages and a third of the speed if each had its own."""
    south = served_sites["south"]
    (south.folder / "outbox" / NAME).write_bytes(bytes(32_000_000))
    way = way_to(served_sites["north"], "south")
    assert NAME in way.names()
    before = page_faults(process.pid)

    way.get(NAME, tmp_path / "target", 32_000_000)

    way.close()
    assert page_faults(process.pid) - before < 5_000


def page_faults(pid: int) -> int:
    """How often the process was given a page of memory."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"], ids=["silent", "banner only"])
def test_31_idle_sockets_starve_nobody(south, served_sites, greeting):
    """More than fit one address, with the limits of earnest."""
    with ExitStack() as stack:
        for _ in range(31):
            stack.enter_context(socket.create_connection(south.listen)).sendall(greeting)

        assert can_read(south, key_of(served_sites))


@limited(login_seconds=3)
def test_who_stops_after_the_key_exchange_is_sent_away(strict):
    """The stock recipe keeps such a connection for ever."""
    transport = paramiko.Transport(socket.create_connection(strict.listen, timeout=60))
    transport.start_client(timeout=60)

    assert ends(lambda: not transport.is_active())
    transport.close()


@limited(login_seconds=1)
def test_who_sends_only_a_greeting_is_sent_away(strict):
    """So is who sends a byte now and then."""
    with socket.create_connection(strict.listen) as quiet, socket.create_connection(strict.listen) as slow:
        quiet.sendall(b"SSH-2.0-x\r\n")

        def look() -> bool:
            with suppress(OSError):
                slow.sendall(b"S")
            return hung_up(slow)

        assert ends(look)
        assert ends(lambda: hung_up(quiet))


@limited(login_seconds=3)
def test_a_known_key_that_is_only_shown_does_not_stop_the_clock(strict, served_sites):
    """Public keys are public."""
    known = served_sites["north"].member.public_key.split()[:2]
    with socket.create_connection(strict.listen, timeout=60) as sock:
        transport = paramiko.Transport(sock)
        transport.start_client(timeout=60)
        asked = paramiko.Message()
        asked.add_byte(b"\x05")
        asked.add_string("ssh-userauth")
        transport.auth_handler = paramiko.auth_handler.AuthHandler(transport)
        transport._send_message(asked)
        shown = paramiko.Message()
        shown.add_byte(b"\x32")
        for text in ("north", "ssh-connection", "publickey"):
            shown.add_string(text)
        shown.add_boolean(False)
        shown.add_string(known[0])
        shown.add_string(paramiko.Ed25519Key(filename=str(key_of(served_sites))).asbytes())
        transport._send_message(shown)

        assert ends(lambda: not transport.is_active())
        transport.close()


@limited(idle_seconds=2)
def test_neither_keepalives_nor_half_a_request_are_activity(strict, served_sites):
    """A logged-in peer that asks for nothing loses its place all the same."""
    with logged_in(strict, key_of(served_sites)) as transport:
        channel = transport.open_session()
        channel.invoke_subsystem("sftp")
        with suppress(OSError):
            channel.sendall(struct.pack(">I", 60_000))

        def look() -> bool:
            with suppress(EOFError, OSError):
                transport.send_ignore()
                channel.sendall(b"x")
            return not transport.is_active()

        assert ends(look)


@limited(total=6, per_address=3)
def test_one_address_has_few_connections(strict, served_sites):
    """Peers that logged in stay; who comes too late is turned away, whoever it is."""
    with ExitStack() as stack:
        inside = [stack.enter_context(logged_in(strict, key_of(served_sites))) for _ in range(3)]
        with socket.create_connection(strict.listen) as late:
            assert ends(lambda: hung_up(late), 20)  # sooner than who does not log in

        assert all(transport.is_active() for transport in inside)


def test_a_connection_has_few_channels(south, served_sites):
    """Each could be a thread."""
    with logged_in(south, key_of(served_sites)) as transport:
        for _ in range(MAX_CHANNELS):
            transport.open_session()

        with pytest.raises(paramiko.ChannelException):
            transport.open_session()


def test_folders_count_as_handles(south, served_sites):
    """Listings that are never closed end at the same number."""
    with logged_in(south, key_of(served_sites)) as transport:
        sftp = paramiko.SFTPClient.from_transport(transport)
        for _ in range(MAX_HANDLES):
            sftp._request(11, ".")

        with pytest.raises(OSError):
            sftp._request(11, ".")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_the_server_outlives_a_lack_of_descriptors(process, served_sites):
    """With descriptors for a few files only: open files are refused, connections wait, then all is well."""
    south, key = served_sites["south"], key_of(served_sites)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (40, 40))
    refused, held = 0, []
    with ExitStack() as stack:
        for _ in range(3):
            with suppress(paramiko.SSHException, OSError, EOFError):
                transport = stack.enter_context(logged_in(south, key))
                sftp = paramiko.SFTPClient.from_transport(transport)
                for _ in range(MAX_HANDLES):
                    try:
                        held.append(sftp.open(NAME))
                    except OSError:
                        refused += 1
        for _ in range(10):
            stack.enter_context(socket.create_connection(south.listen))
        time.sleep(1)

        assert held
        assert refused
        assert process.running
    assert ends(lambda: len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 20)
    assert can_read(south, key)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are read from /proc")
def test_the_server_allows_itself_descriptors_for_all_its_limits(served_sites):
    """64 connections with 16 files each are more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        process = ServerProcess(served_sites["south"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    found = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    process.stop()
    assert found[0] > Limits().total * (1 + MAX_HANDLES)


def test_the_folder_has_the_time_of_the_servers_clock(south, served_sites):
    """Its peers measure with it how far clocks are apart."""
    with logged_in(south, key_of(served_sites)) as transport:
        before = int(time.time())
        found = paramiko.SFTPClient.from_transport(transport).stat("/").st_mtime

        assert before <= found <= time.time()


def test_keys_are_exchanged_anew_within_a_transfer(south, served_sites, tmp_path, monkeypatch):
    """Every half gigabyte in earnest, every megabyte here; not a byte is lost.

    How often, within 20 MB, depends on what is on its way when an exchange begins.
    """
    exchanges = []
    original = paramiko.Transport._parse_newkeys

    def counting(transport, message) -> None:
        exchanges.append(transport)
        original(transport, message)

    monkeypatch.setattr(paramiko.Transport, "_parse_newkeys", counting)
    monkeypatch.setattr(paramiko.packet.Packetizer, "REKEY_BYTES", 1 << 20)
    content = random.Random(7).randbytes(20_000_000)
    (south.folder / "outbox" / NAME).write_bytes(content)
    way = way_to(served_sites["north"], "south")

    way.get(NAME, tmp_path / "target", len(content))

    way.close()
    assert (tmp_path / "target").read_bytes() == content
    at_login = 2
    assert len(exchanges) > at_login


def test_an_outbox_that_was_put_back_is_served(south, served_sites):
    """From a backup, say, without a restart."""
    (south.folder / "outbox").rename(south.folder / "old")
    (south.folder / "outbox").mkdir()
    with logged_in(south, key_of(served_sites)) as transport:
        assert paramiko.SFTPClient.from_transport(transport).listdir() == []

    fill(south)
    assert can_read(south, key_of(served_sites))
