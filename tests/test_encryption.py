"""Encryption of weights in the age format."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyrage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer_sync import encryption
from peer_sync.checks import most_encrypted_bytes
from peer_sync.encryption import decrypt, encrypt
from peer_sync.errors import ConfigError, RejectedError
from peer_sync.identity import generate_key
from peer_sync.openssh import line_of, string

CHUNK = 64 * 1024
SEALED_CHUNK = CHUNK + 16
NONCE = 16
CONTENT = os.urandom(3 * CHUNK + 17)
SMALLEST_HEADER = b"age-encryption.org/v1\n-> x\n\n"

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="the age command is not installed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, str]:
    """Public lines of three sites; the files lie in `keys["folder"]`."""
    folder = tmp_path_factory.mktemp("keys")
    lines = {name: generate_key(folder / name, name) for name in ("north", "south", "east")}
    return {**lines, "folder": str(folder)}


@pytest.fixture
def our_key(keys) -> Path:
    """North's private key."""
    return Path(keys["folder"], "north")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, keys) -> bytes:
    """`CONTENT`, encrypted to north and south."""
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "plain").write_bytes(CONTENT)
    encrypt(folder / "plain", folder / "sealed", [keys["north"], keys["south"]])
    return (folder / "sealed").read_bytes()


def body_of(sealed: bytes) -> int:
    """Where the header ends."""
    return sealed.index(b"\n", sealed.index(b"\n---") + 1) + 1


def refusal(folder: Path, data: bytes, key: Path, max_bytes: int = len(CONTENT)) -> RejectedError:
    """How `data` is refused; nothing of it stays."""
    source, target = folder / "refused.age", folder / "refused"
    source.write_bytes(data)
    with pytest.raises(RejectedError) as caught:
        decrypt(source, target, key, max_bytes)
    assert caught.value.rule == "encryption"
    assert caught.value.hint
    assert not target.exists()
    return caught.value


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 200_000])
def test_what_was_encrypted_comes_back(tmp_path, keys, our_key, size):
    """Every byte, also at the borders of chunks."""
    content = os.urandom(size)
    (tmp_path / "plain").write_bytes(content)

    encrypt(tmp_path / "plain", tmp_path / "sealed", [keys["north"]])
    decrypt(tmp_path / "sealed", tmp_path / "opened", our_key, size)

    assert (tmp_path / "opened").read_bytes() == content


def test_each_recipient_can_read_and_nobody_else(tmp_path, keys, sealed):
    """East has a good key, but was not meant."""
    (tmp_path / "sealed").write_bytes(sealed)
    for name in ("north", "south"):
        decrypt(tmp_path / "sealed", tmp_path / name, Path(keys["folder"], name), len(CONTENT))
        assert (tmp_path / name).read_bytes() == CONTENT

    assert "No matching keys" in str(refusal(tmp_path, sealed, Path(keys["folder"], "east")))


def test_nothing_of_the_content_can_be_read(sealed):
    """No 16 bytes of it stand in the file."""
    assert not any(CONTENT[start : start + 16] in sealed for start in range(0, len(CONTENT), 4096))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.integers(0), bit=st.integers(0, 7), in_header=st.booleans())
def test_a_flipped_bit_is_refused(tmp_path, sealed, our_key, position, bit, in_header):
    """In the header as in the content."""
    changed = bytearray(sealed)
    changed[position % (body_of(sealed) if in_header else len(sealed))] ^= 1 << bit

    refusal(tmp_path, bytes(changed), our_key)


@pytest.mark.parametrize(
    "kept_bytes",
    [0, 1, NONCE - 1, NONCE, *(NONCE + n * SEALED_CHUNK + m for n in (1, 2, 3) for m in (-1, 0, 1))],
)
def test_a_file_cut_short_is_refused(tmp_path, sealed, our_key, kept_bytes):
    """At the borders of chunks, too, where each chunk by itself is good."""
    refusal(tmp_path, sealed[: body_of(sealed) + kept_bytes], our_key)


def test_a_file_that_was_made_longer_is_refused(tmp_path, sealed, our_key):
    """By a byte, or by a whole chunk."""
    refusal(tmp_path, sealed + b"x", our_key)
    refusal(tmp_path, sealed + sealed[-SEALED_CHUNK:], our_key)


@pytest.mark.parametrize(
    "data", [b"", b"x", b'{"format": "plain weights"}' * 100, SMALLEST_HEADER, b"age-encryption.org/v2\n"]
)
def test_a_file_that_is_no_age_file_is_refused(tmp_path, our_key, data):
    """Plain weights, for example."""
    refusal(tmp_path, data, our_key)


def test_an_armored_file_is_refused(tmp_path, keys, our_key):
    """Good age, too, but its header could not be bounded."""
    armored = pyrage.encrypt(CONTENT, [pyrage.ssh.Recipient.from_str(keys["north"])], armored=True)

    assert "a file that begins with b'-----BEGIN" in str(refusal(tmp_path, armored, our_key))


def test_more_than_was_stated_is_never_written(tmp_path, sealed, our_key, monkeypatch):
    """One byte too much is too much, and what was written until then is less."""
    removed = []
    unlink = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, **more: removed.append(path.stat().st_size) or unlink(path, **more)
    )

    for max_bytes in (len(CONTENT) - 1, CHUNK, 1, 0):
        assert f"more than {max_bytes} bytes" in str(refusal(tmp_path, sealed, our_key, max_bytes))
        assert removed.pop() <= max_bytes


@pytest.mark.parametrize(
    "header",
    [
        b"age-encryption.org/v1\n" + b"-> x\n\n" * 200_000,
        b"age-encryption.org/v1\n-> x\n" + (b"A" * 64 + b"\n") * 20_000,
        b"age-encryption.org/v1\n" + b"-> x\n\n" * 10_000 + b"--- " + b"A" * 43 + b"\n",
    ],
    ids=["entries", "body", "with an end"],
)
def test_an_endless_header_costs_no_time(tmp_path, our_key, header):
    """The library would read a megabyte of it for a quarter of a minute, and holds the interpreter."""
    started = time.process_time()

    assert "a header of more than" in str(refusal(tmp_path, header + bytes(1000), our_key))
    assert time.process_time() - started < 5


def test_the_largest_header_that_is_read_costs_little(tmp_path, our_key):
    """As many entries as are allowed."""
    header = SMALLEST_HEADER + b"-> x\n\n" * (encryption.MAX_STANZAS - 1) + b"--- " + b"A" * 43 + b"\n"
    started = time.process_time()

    refusal(tmp_path, header + bytes(1000), our_key)
    assert time.process_time() - started < 5


def test_a_key_with_a_passphrase_cannot_decrypt(tmp_path, sealed):
    """It is our own mistake, not the peer's, and the message says what would work."""
    key = tmp_path / "locked"
    made = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], timeout=100)
    assert made.returncode == 0
    (tmp_path / "sealed").write_bytes(sealed)

    with pytest.raises(ConfigError, match="which cannot decrypt") as caught:
        decrypt(tmp_path / "sealed", tmp_path / "opened", key, len(CONTENT))
    assert "without passphrase" in caught.value.hint
    key.unlink()
    with pytest.raises(ConfigError, match="which cannot decrypt"):
        decrypt(tmp_path / "sealed", tmp_path / "opened", key, len(CONTENT))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQ",
        line_of(string(b"ssh-ed25519") + string(bytes(31))),
    ],
)
def test_a_recipient_that_is_no_site_key_is_our_mistake(tmp_path, keys, line):
    """Nothing is written for the others either."""
    (tmp_path / "plain").write_bytes(b"weights")

    with pytest.raises(ConfigError, match="cannot encrypt to"):
        encrypt(tmp_path / "plain", tmp_path / "sealed", [keys["north"], line])
    assert not (tmp_path / "sealed").exists()


@pytest.mark.parametrize("count", [0, encryption.MAX_RECIPIENTS + 1])
def test_too_few_and_too_many_recipients(tmp_path, keys, count):
    """None could read it, or nobody would read so long a header."""
    (tmp_path / "plain").write_bytes(b"weights")

    with pytest.raises(ConfigError, match=f"found {count}"):
        encrypt(tmp_path / "plain", tmp_path / "sealed", [keys["north"]] * count)


def test_as_many_recipients_as_allowed_can_read(tmp_path, keys, our_key):
    """Their header is within the limits of whoever reads it."""
    (tmp_path / "plain").write_bytes(b"weights")

    encrypt(tmp_path / "plain", tmp_path / "sealed", [keys["south"]] * 499 + [keys["north"]])
    decrypt(tmp_path / "sealed", tmp_path / "opened", our_key, 7)

    assert (tmp_path / "opened").read_bytes() == b"weights"


def test_a_file_that_is_there_is_not_overwritten(tmp_path, keys, our_key, sealed):
    """Neither by encrypting nor by decrypting."""
    (tmp_path / "sealed").write_bytes(sealed)
    (tmp_path / "there").write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        encrypt(tmp_path / "sealed", tmp_path / "there", [keys["north"]])
    with pytest.raises(FileExistsError):
        decrypt(tmp_path / "sealed", tmp_path / "there", our_key, len(CONTENT))
    assert (tmp_path / "there").read_bytes() == b"precious"


@pytest.fixture
def small_disk():
    """No file can get longer than 100,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_our_full_disk_is_our_own_error(tmp_path, keys, our_key, sealed, request):
    """Not a refusal of the peer's offer, and nothing half stays."""
    (tmp_path / "sealed").write_bytes(sealed)
    (tmp_path / "plain").write_bytes(CONTENT)
    request.getfixturevalue("small_disk")

    with pytest.raises(OSError, match="File too large"):
        decrypt(tmp_path / "sealed", tmp_path / "opened", our_key, len(CONTENT))
    with pytest.raises(OSError, match="File too large"):
        encrypt(tmp_path / "plain", tmp_path / "again", [keys["north"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "sealed"]


def test_an_encrypted_file_is_as_large_as_the_manifest_may_say(tmp_path, keys):
    """The library adds an entry of random length: none breaks the rule `size`."""
    (tmp_path / "plain").write_bytes(bytes(CHUNK))

    class Stated:
        weights_bytes = CHUNK
        recipients = ("north", "south")

    for _ in range(100):
        encrypt(tmp_path / "plain", tmp_path / "sealed", [keys["north"], keys["south"]])
        size = (tmp_path / "sealed").stat().st_size
        assert CHUNK < size <= most_encrypted_bytes(Stated)
        (tmp_path / "sealed").unlink()


MEASURED = """
import resource, sys
from pathlib import Path
from peer_sync.encryption import decrypt, encrypt
folder, key = Path(sys.argv[1]), Path(sys.argv[2])
line = Path(f"{key}.pub").read_text()
small, large = folder / "small", folder / "large"
def round_trip(plain, size):
    with plain.open("wb") as file:
        file.truncate(size)
    encrypt(plain, folder / "sealed", [line])
    decrypt(folder / "sealed", folder / "opened", key, size)
    assert (folder / "opened").stat().st_size == size
    (folder / "sealed").unlink()
    (folder / "opened").unlink()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(-round_trip(small, 1_000_000) + round_trip(large, 200_000_000))
"""


def test_memory_does_not_grow_with_the_file(tmp_path, our_key):
    """200 MB are encrypted and decrypted within 8 MiB more than 1 MB needs."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), str(our_key)], capture_output=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * 1024


@needs_age
def test_the_age_command_reads_what_we_encrypt(tmp_path, our_key, sealed):
    """With the site's own key file."""
    done = subprocess.run(["age", "-d", "-i", str(our_key)], input=sealed, capture_output=True, timeout=100)

    assert done.returncode == 0, done.stderr
    assert done.stdout == CONTENT


@needs_age
def test_we_read_what_the_age_command_encrypts(tmp_path, keys, our_key):
    """To the line that stands in federation.toml."""
    recipients = [option for name in ("south", "north") for option in ("-r", keys[name])]

    done = subprocess.run(["age", *recipients], input=CONTENT, capture_output=True, timeout=100)
    (tmp_path / "sealed").write_bytes(done.stdout)
    decrypt(tmp_path / "sealed", tmp_path / "opened", our_key, len(CONTENT))

    assert (tmp_path / "opened").read_bytes() == CONTENT
