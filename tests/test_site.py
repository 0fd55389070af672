"""site.toml."""

from pathlib import Path

import pytest
from courier_kit import build_sites

from peer_sync.errors import ConfigError
from peer_sync.identity import generate_key
from peer_sync.site import SITE_VARIABLE, check_together, load_site, site_from_environment


def change(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


def refusal(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_site(path)
    assert caught.value.hint
    return caught.value


def test_a_good_file_is_read_with_its_defaults(tmp_path, served_sites):
    """Paths start from the file's folder."""
    site = load_site(tmp_path / "north.toml")

    assert (site.name, site.folder, site.private_key) == (
        "north",
        tmp_path / "north",
        tmp_path / "keys/north",
    )
    assert (site.share_cases, site.share_dice, site.offer_days) == (True, True, 30)
    assert site.wait_seconds == 600
    assert site.listen is not None
    assert site.member.address == f"sftp://127.0.0.1:{site.listen[1]}"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("folder =", "foldr =", "unknown key 'foldr'; the nearest known key is 'folder'"),
        ('site = "north"', 'site = "east"', "no site is called 'east'"),
        ('site = "north"', "", "key 'site' is missing"),
        ('folder = "north"', "folder = 3", "folder is 3, expected text in quotes"),
        ('folder = "north"', 'folder = "north"\noffer_days = 0', "offer_days is 0, expected 1 to"),
        (
            'folder = "north"',
            'folder = "north"\nwait_seconds = -1',
            "wait_seconds is -1, expected 0 to 86400",
        ),
        (
            'folder = "north"',
            'folder = "north"\nwait_seconds = 86401',
            "wait_seconds is 86401, expected 0 to 86400",
        ),
        ('folder = "north"', 'folder = "north"\nlisten = "40221"', "expected HOST:PORT"),
        ('folder = "north"', 'folder = "north"\nlisten = "127.0.0.1:40221"', "host_key is missing"),
        ('federation = "federation.toml"', 'federation = "other.toml"', "other.toml"),
        ('"keys/north"', '"keys/nobody"', "cannot read the private key"),
        ('"keys/north"', '"keys/south"', "but federation.toml expects"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, sites, old, new, found):
    """Each mistake gets a message that names it, and a hint."""
    assert found in str(refusal(change(tmp_path / "north.toml", old, new)))


def test_a_host_key_that_nobody_pinned_is_refused(tmp_path, served_sites):
    """Peers would refuse the server: better to hear it at the start."""
    generate_key(tmp_path / "keys/other")

    error = refusal(change(tmp_path / "north.toml", "keys/north_host", "keys/other"))

    assert "host_key" in str(error)


def test_a_key_file_that_others_can_read_is_refused(tmp_path, sites):
    """Mode 0640 is too much; the hint is the command that mends it."""
    (tmp_path / "keys/north").chmod(0o640)

    error = refusal(tmp_path / "north.toml")

    assert "mode is 0640, expected 0600" in str(error)
    assert error.hint.startswith("chmod 600")


def test_without_the_variable_there_is_an_instruction(monkeypatch):
    """Training stops at once and says what to export."""
    monkeypatch.delenv(SITE_VARIABLE, raising=False)

    with pytest.raises(ConfigError, match="nnUNet_gml_site is not set") as caught:
        site_from_environment()
    assert "export nnUNet_gml_site=" in caught.value.hint


def test_the_variable_names_the_file(monkeypatch, tmp_path, sites):
    """The environment chooses the site."""
    monkeypatch.setenv(SITE_VARIABLE, str(tmp_path / "south.toml"))

    assert site_from_environment() == sites["south"]


def test_different_sites_go_together(served_sites):
    """Nothing is wrong with two good sites."""
    check_together(list(served_sites.values()))


def test_two_sites_with_one_name_are_refused(sites):
    """The second would overwrite what the first says."""
    with pytest.raises(ConfigError, match="two sites are called 'north'"):
        check_together([sites["north"], sites["south"], sites["north"]])


def test_two_federation_files_that_differ_are_refused(tmp_path, sites):
    """Both digests and both sites are named."""
    (tmp_path / "elsewhere").mkdir()
    other = build_sites(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="different federation files") as caught:
        check_together([sites["north"], other["south"]])
    assert sites["north"].federation.digest in str(caught.value)
    assert other["south"].federation.digest in str(caught.value)


def test_two_sites_with_one_folder_are_refused(tmp_path, sites):
    """Mail would mix."""
    shared = load_site(change(tmp_path / "south.toml", 'folder = "south"', 'folder = "north"'))

    with pytest.raises(ConfigError, match="share the folder"):
        check_together([sites["north"], shared])


def test_two_sites_with_one_port_are_refused(tmp_path, served_sites):
    """Only one server can have it."""
    north, south = (served_sites[name].listen[1] for name in ("north", "south"))
    shared = load_site(change(tmp_path / "south.toml", str(south), str(north)))

    with pytest.raises(ConfigError, match="share the listen address"):
        check_together([served_sites["north"], shared])
