"""Keys and signatures."""

import base64
import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer_sync import identity, openssh
from peer_sync.errors import ConfigError, RejectedError

needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed"
)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A public line and a signature over b'facts'."""
    path = tmp_path_factory.mktemp("keys") / "north"
    line = identity.generate_key(path, "north")
    return line, identity.sign(identity.load_site_key(path), b"facts")


def keygen(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run(["ssh-keygen", *arguments], input=data, capture_output=True, timeout=100)


def test_a_new_key_is_for_its_owner_only(tmp_path):
    """Mode 0600, and the public line lies beside it."""
    line = identity.generate_key(tmp_path / "keys" / "north", "north")

    assert stat.S_IMODE((tmp_path / "keys/north").stat().st_mode) == 0o600
    assert (tmp_path / "keys/north.pub").read_text() == line + "\n"
    assert line.startswith("ssh-ed25519 AAAA")
    assert line.endswith(" north")


@pytest.mark.parametrize("existing", ["north", "north.pub"])
def test_a_key_is_never_overwritten(tmp_path, existing):
    """Neither half may be there."""
    (tmp_path / existing).write_text("precious")

    with pytest.raises(ConfigError, match="never overwritten"):
        identity.generate_key(tmp_path / "north")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "precious")]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    """Group and others must have no rights at all."""
    identity.generate_key(tmp_path / "north")
    (tmp_path / "north").chmod(mode)

    with pytest.raises(ConfigError, match="can be read by others"):
        identity.load_private_key(tmp_path / "north")


def test_a_file_that_is_no_key_is_refused(tmp_path):
    """The message names the file."""
    (tmp_path / "north").write_text("hello")
    (tmp_path / "north").chmod(0o600)

    with pytest.raises(ConfigError, match="is not an OpenSSH private key"):
        identity.load_private_key(tmp_path / "north")


def test_a_signature_holds(signed):
    """What was signed verifies."""
    identity.verify(signed[0], b"facts", signed[1])


def test_other_data_is_refused(signed):
    """The signature is over these bytes only."""
    with pytest.raises(RejectedError, match="does not fit") as caught:
        identity.verify(signed[0], b"fact", signed[1])
    assert caught.value.rule == "signature"


def test_another_signer_is_refused(tmp_path, signed):
    """Both keys are named by their fingerprints."""
    other = identity.generate_key(tmp_path / "other")

    with pytest.raises(RejectedError, match=r"expected one by ssh-ed25519 SHA256:.*, found one by"):
        identity.verify(other, b"facts", signed[1])


@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_signature_is_refused(signed, position, bit):
    """There is one spelling of a signature, so even white space counts."""
    line, signature = signed
    changed = bytearray(signature)
    changed[position % len(changed)] ^= 1 << bit

    with pytest.raises(RejectedError):
        identity.verify(line, b"facts", bytes(changed))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_refusal_not_a_crash(signed, garbage):
    """A stranger's bytes never raise anything else."""
    with pytest.raises(RejectedError):
        identity.verify(signed[0], b"facts", garbage)


@needs_ssh_keygen
def test_ssh_keygen_accepts_our_signature(tmp_path, signed):
    """`ssh-keygen -Y verify` needs nothing of ours."""
    (tmp_path / "signature").write_bytes(signed[1])
    (tmp_path / "signers").write_text(f"north {signed[0]}\n")

    done = keygen(
        *("-Y", "verify", "-I", "north", "-n", "nnunet-gml"),
        *("-f", str(tmp_path / "signers"), "-s", str(tmp_path / "signature")),
        data=b"facts",
    )

    assert done.returncode == 0, done.stderr


@needs_ssh_keygen
def test_we_accept_a_signature_by_ssh_keygen(tmp_path):
    """A key and a signature that OpenSSH made."""
    key = tmp_path / "key"
    assert keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key)).returncode == 0

    done = keygen("-Y", "sign", "-n", "nnunet-gml", "-f", str(key), data=b"facts")

    identity.verify((tmp_path / "key.pub").read_text(), b"facts", done.stdout)
    assert identity.same_key(
        identity.public_line(identity.load_private_key(key)), (tmp_path / "key.pub").read_text()
    )


@needs_ssh_keygen
def test_another_namespace_is_refused(tmp_path):
    """A signature made for another purpose does not count here."""
    key = tmp_path / "key"
    line = identity.generate_key(key)

    done = keygen("-Y", "sign", "-n", "git", "-f", str(key), data=b"facts")

    with pytest.raises(RejectedError, match="namespace"):
        identity.verify(line, b"facts", done.stdout)


KEY_STRING = openssh.string(openssh.KEY_TYPE)
GOOD_INNER = KEY_STRING + openssh.string(b"x" * 64)


@pytest.mark.parametrize(
    ("signer", "inner"),
    [
        (b"", GOOD_INNER),
        (b" ", GOOD_INNER),
        (KEY_STRING, GOOD_INNER),
        (KEY_STRING + openssh.string(b"x" * 33), GOOD_INNER),
        (b"x" * 51, GOOD_INNER),
        (b"", b""),
        (KEY_STRING + openssh.string(b"x" * 32), KEY_STRING + openssh.string(b"")),
    ],
)
def test_a_strange_signer_is_a_refusal_not_a_crash(signed, signer, inner):
    """Well-armored, with fields of any length."""
    fields = (signer, openssh.NAMESPACE, b"", b"sha512", inner)
    blob = openssh.MAGIC + b"\0\0\0\1" + b"".join(map(openssh.string, fields))

    with pytest.raises(RejectedError) as caught:
        identity.verify(signed[0], b"facts", openssh.armor(blob))
    assert caught.value.rule == "signature"


def test_a_signature_of_another_length_is_refused(signed):
    """By the right key, with half the bytes."""
    blob = openssh.strings(openssh.string(base64.b64decode(signed[0].split()[1])), 1)[0]
    inner = KEY_STRING + openssh.string(b"x" * 32)
    fields = (blob, openssh.NAMESPACE, b"", b"sha512", inner)
    data = openssh.MAGIC + b"\0\0\0\1" + b"".join(map(openssh.string, fields))

    with pytest.raises(RejectedError, match="does not fit"):
        identity.verify(signed[0], b"facts", openssh.armor(data))
