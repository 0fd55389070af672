"""One contract for every way to a peer: folder, embedded server, OpenSSH."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from sshd_kit import SSH, SSHD, running_sshd

from peer_sync.errors import NotFoundError, RejectedError, TransportError
from peer_sync.names import manifest_name, payload_name
from peer_sync.transport import Transport
from peer_sync.transport.folder import FolderTransport
from peer_sync.transport.session import FileRequests
from peer_sync.transport.sftp import SftpTransport

NAME = manifest_name(7)
LARGE = payload_name(7, "a" * 64)


@dataclass
class Place:
    """A transport and the folder behind it."""

    transport: Transport
    outbox: Path
    is_writable: bool


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A real OpenSSH server."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    with running_sshd(tmp_path_factory.mktemp("sshd") / "server") as running:
        yield running


@pytest.fixture
def folder_place(tmp_path) -> Place:
    """A shared folder."""
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    return Place(FolderTransport(outbox), outbox, True)


@pytest.fixture
def embedded_place(served_sites, server) -> Place:
    """South's outbox behind its embedded server, read by north."""
    south = served_sites["south"]
    key = served_sites["north"].private_key
    transport = SftpTransport(south.member.address, south.member.host_key, key, "north")
    return Place(transport, south.folder / "outbox", False)


@pytest.fixture
def openssh_place(tmp_path, sshd) -> Place:
    """A folder behind OpenSSH."""
    return behind(sshd, tmp_path / "outbox", "paramiko")


@pytest.fixture
def child_place(tmp_path, sshd) -> Place:
    """The same, reached by the system's own ssh."""
    if SSH is None:
        pytest.skip("ssh is not installed")
    return behind(sshd, tmp_path / "outbox", "ssh")


def behind(sshd, outbox: Path, carrier: str) -> Place:
    """A new folder on an OpenSSH server."""
    outbox.mkdir()
    address = sshd.address(outbox)
    return Place(
        SftpTransport(address, sshd.host_key, sshd.login_key, "nobody", carrier=carrier), outbox, True
    )


@pytest.fixture(params=["folder", "embedded", "openssh", "child"])
def place(request):
    """Each way in turn."""
    found = request.getfixturevalue(f"{request.param}_place")
    yield found
    found.transport.close()


@pytest.fixture(params=["folder", "openssh", "child"])
def writable(request):
    """Each way that lets us write."""
    found = request.getfixturevalue(f"{request.param}_place")
    yield found
    found.transport.close()


@pytest.fixture(params=["embedded", "openssh", "child"])
def remote(request):
    """Each way over a network."""
    found = request.getfixturevalue(f"{request.param}_place")
    yield found
    found.transport.close()


def test_an_empty_outbox_lists_nothing(place):
    """No names, and no error."""
    assert place.transport.names() == []


def test_names_are_sorted(place):
    """However the disk orders them; 40 files need more than one answer over SFTP."""
    expected = [manifest_name(number) for number in range(1, 41)]
    for name in reversed(expected):
        (place.outbox / name).write_bytes(b"x")

    assert place.transport.names() == expected


def test_unfinished_and_odd_names_are_not_listed(place):
    """A part, a hidden file, a folder, a link and a name with a line feed are nobody's business."""
    (place.outbox / NAME).write_bytes(b"x")
    (place.outbox / ".part-0123").write_bytes(b"x")
    (place.outbox / "a\nb").write_bytes(b"x")
    (place.outbox / "folder").mkdir()

    assert [name for name in place.transport.names() if name != "folder"] == [NAME]


@pytest.mark.parametrize("size", [0, 1, 261_120, 261_121, 3_000_001])
def test_get_copies_every_byte(place, tmp_path, size):
    """Sizes around one request and over many."""
    content = os.urandom(size)
    (place.outbox / LARGE).write_bytes(content)

    copied = place.transport.get(LARGE, tmp_path / "target", size)

    assert copied == size
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("there", [0, 1, 261_120, 1_000_000, 1_000_001])
def test_get_continues_behind_what_is_there(place, tmp_path, there):
    """Only the rest is fetched: what was there stays as it was, right or wrong."""
    content = os.urandom(1_000_001)
    (place.outbox / LARGE).write_bytes(content)
    (tmp_path / "target").write_bytes(b"?" * there)

    size = place.transport.get(LARGE, tmp_path / "target", len(content))

    assert size == len(content)
    assert (tmp_path / "target").read_bytes() == b"?" * there + content[there:]


def test_get_writes_a_larger_target_anew(place, tmp_path):
    """It cannot be the beginning of this file."""
    (place.outbox / NAME).write_bytes(b"short")
    (tmp_path / "target").write_bytes(b"much longer than that")

    assert place.transport.get(NAME, tmp_path / "target", 100) == 5
    assert (tmp_path / "target").read_bytes() == b"short"


def test_a_broken_download_continues(remote, monkeypatch, tmp_path):
    """The connection breaks in the middle; the next call brings the rest, and together they are the file."""
    content = os.urandom(30_000_000)  # more than any window lets come ahead
    (remote.outbox / LARGE).write_bytes(content)
    answer, asked = FileRequests.answer, []

    def breaking(self: FileRequests, number: int) -> bytes:
        asked.append(number)
        if len(asked) == 9:
            remote.transport.close()
        return answer(self, number)

    monkeypatch.setattr(FileRequests, "answer", breaking)
    while len(asked) < 9:
        with pytest.raises(TransportError):
            remote.transport.get(LARGE, tmp_path / "target", len(content))
    come = (tmp_path / "target").stat().st_size

    assert remote.transport.get(LARGE, tmp_path / "target", len(content)) == len(content)
    assert 0 < come < len(content)
    assert (tmp_path / "target").read_bytes() == content


def test_a_missing_file_is_not_found(place, tmp_path):
    """Later it may be there."""
    with pytest.raises(NotFoundError):
        place.transport.get(NAME, tmp_path / "target", 10)


def test_a_file_over_the_limit_is_refused(place, tmp_path):
    """One byte more than allowed, and hardly more than the limit is read."""
    (place.outbox / NAME).write_bytes(b"x" * 101)

    with pytest.raises(RejectedError, match="at most 100 bytes") as caught:
        place.transport.get(NAME, tmp_path / "target", 100)
    assert caught.value.rule == "size"
    assert not (tmp_path / "target").exists() or (tmp_path / "target").stat().st_size <= 101


def test_our_full_disk_is_not_the_peers_fault(place):
    """The error comes through as it is, also when it comes with the last bytes."""
    (place.outbox / NAME).write_bytes(b"x" * 100)

    with pytest.raises(OSError, match="No space left"):
        place.transport.get(NAME, Path("/dev/full"), 100)


def test_it_works_on_after_a_failure(place, tmp_path):
    """An error does not spoil the next call."""
    (place.outbox / NAME).write_bytes(b"x")
    with pytest.raises(NotFoundError):
        place.transport.get(LARGE, tmp_path / "target", 10)

    assert place.transport.get(NAME, tmp_path / "target", 10) == 1


def test_close_twice_and_use_again(place):
    """A closed transport opens itself."""
    place.transport.close()
    place.transport.close()

    assert place.transport.names() == []


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", ".part-1", "a/b", "", "a\n"])
def test_a_name_that_is_a_path_is_not_asked_for(place, tmp_path, name):
    """Names from the other side never become paths, on either side."""
    with pytest.raises(TransportError, match="plain file name"):
        place.transport.get(name, tmp_path / "target", 10)


@pytest.mark.parametrize("size", [0, 10, 2_000_001])
def test_put_shows_the_whole_file(writable, tmp_path, size):
    """What was put can be got, and no part is left."""
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)

    writable.transport.put(tmp_path / "source", NAME)

    assert (writable.outbox / NAME).read_bytes() == content
    assert [path.name for path in writable.outbox.iterdir()] == [NAME]


def test_put_replaces_an_older_file(writable, tmp_path):
    """The name then means the new content."""
    (writable.outbox / NAME).write_bytes(b"old")
    (tmp_path / "source").write_bytes(b"new")

    writable.transport.put(tmp_path / "source", NAME)

    assert (writable.outbox / NAME).read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["openssh", "child"])
def test_put_replaces_where_renaming_does_not(request, kind, tmp_path):
    """Not every server can rename over a file: then the old one goes first."""
    place = request.getfixturevalue(f"{kind}_place")
    (place.outbox / NAME).write_bytes(b"old")
    (tmp_path / "source").write_bytes(b"new")
    client = place.transport._connection.client()
    client.extensions.clear()
    client.posix_rename = None

    place.transport.put(tmp_path / "source", NAME)

    assert (place.outbox / NAME).read_bytes() == b"new"
    place.transport.close()


def test_remove_removes(writable):
    """One file, and it is no matter if it is gone already."""
    (writable.outbox / NAME).write_bytes(b"x")
    (writable.outbox / LARGE).write_bytes(b"x")

    writable.transport.remove(NAME)
    writable.transport.remove(NAME)

    assert writable.transport.names() == [LARGE]


def test_remove_parts_removes_nothing_else(writable):
    """What an interrupted upload left goes; published and foreign files stay."""
    for name in (NAME, ".part-0123456789abcdef", ".part-x", ".hidden", "notes.part-1"):
        (writable.outbox / name).write_bytes(b"x")

    writable.transport.remove_parts()

    assert {path.name for path in writable.outbox.iterdir()} == {NAME, ".hidden", "notes.part-1"}


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", ".hidden", "a/b", "", "a\n"])
def test_a_name_that_is_a_path_is_not_removed(writable, name):
    """No more than it is asked for."""
    with pytest.raises(TransportError, match="plain file name"):
        writable.transport.remove(name)


def test_put_into_a_missing_folder_fails(writable, tmp_path):
    """As a failure that may pass, not as a crash."""
    (tmp_path / "source").write_bytes(b"new")
    writable.outbox.rmdir()

    with pytest.raises(TransportError):
        writable.transport.put(tmp_path / "source", NAME)


def test_the_embedded_server_takes_nothing(embedded_place, tmp_path):
    """A peer cannot write, nor remove."""
    (tmp_path / "source").write_bytes(b"new")
    (embedded_place.outbox / LARGE).write_bytes(b"x")

    with pytest.raises(TransportError):
        embedded_place.transport.put(tmp_path / "source", NAME)
    with pytest.raises(TransportError):
        embedded_place.transport.remove(LARGE)
    assert [path.name for path in embedded_place.outbox.iterdir()] == [LARGE]


def test_a_folder_that_is_not_mounted_is_not_found(tmp_path):
    """Later it may be."""
    with pytest.raises(NotFoundError):
        FolderTransport(tmp_path / "nowhere").names()


def test_a_link_in_a_folder_is_not_followed(folder_place, tmp_path):
    """A peer's link cannot make us read our own files."""
    (tmp_path / "secret").write_bytes(b"secret")
    (folder_place.outbox / NAME).symlink_to(tmp_path / "secret")

    assert folder_place.transport.names() == []
    with pytest.raises(TransportError):
        folder_place.transport.get(NAME, tmp_path / "target", 100)
