"""The command line: parse, call, report."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from courier_kit import build_sites
from nnunet_kit import CONFIGURATION, plans_of

from nnunet_gml.cli import main
from nnunet_gml.installed import trainers_folder
from nnunet_gml.planning.plans import plans_digest
from peer_sync.site import SITE_VARIABLE


def test_trainers_prints_a_folder_that_nnunet_can_use(capsys):
    """The folder holds the trainers, one class a file, and nothing that shadows a package."""
    assert main(["trainers"]) == 0

    folder = Path(capsys.readouterr().out.strip())
    names = {path.stem for path in folder.glob("*.py")}
    assert {"nnUNetTrainerGML", "nnUNetTrainerGMLFrozen"} <= names
    assert all(name.startswith("nnUNetTrainer") for name in names)


TRAINERS = {
    "nnUNetTrainerFedAvg": "FedAvgTrainer",
    "nnUNetTrainerFedProx": "FedProxTrainer",
    "nnUNetTrainerGCML": "ContrastiveGossipTrainer",
    "nnUNetTrainerGML": "GossipTrainer",
    "nnUNetTrainerGMLFrozen": "FrozenGossipTrainer",
    "nnUNetTrainerGossipAverage": "GossipAverageTrainer",
}
"""What nnU-Net's users name, and the class behind it."""


@pytest.fixture(scope="module")
def found_trainers():
    """What nnU-Net's own look-up finds, by name and base class; one start for all, it takes seconds."""
    code = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        f"for found in map(find, {[*TRAINERS]!r}): print('found', found.__name__, found.__mro__[1].__name__)"
    )
    folder = subprocess.run(
        [sys.executable, "-m", "nnunet_gml.cli", "trainers"], capture_output=True, text=True
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "nnUNet_extTrainer": folder.stdout.strip()},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(("name", "base"), TRAINERS.items())
def test_nnunet_finds_each_trainer_by_its_name(found_trainers, name, base):
    """Through nnU-Net's own variable; every file has the class that it is named after."""
    assert f"found {name} {base}" in found_trainers.splitlines()


def test_no_trainer_of_the_folder_is_left_out():
    """A new file needs a line in the list above."""
    assert {path.stem for path in trainers_folder().glob("*.py")} == set(TRAINERS)


def test_keygen_makes_keys_that_only_the_owner_can_read(tmp_path, capsys):
    """Two private keys, and on stdout the two lines for federation.toml."""
    assert main(["keygen", str(tmp_path / "north"), "--site", "north"]) == 0

    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith('public_key = "ssh-ed25519 ')
    assert said.splitlines()[1].startswith('host_key = "ssh-ed25519 ')
    assert (tmp_path / "north").stat().st_mode & 0o77 == 0
    assert (tmp_path / "north_host").stat().st_mode & 0o77 == 0


def test_keygen_never_overwrites(tmp_path, capsys):
    """A lost key locks a site out of its federation."""
    main(["keygen", str(tmp_path / "north")])
    before = (tmp_path / "north").read_bytes()

    assert main(["keygen", str(tmp_path / "north")]) == 2
    assert (tmp_path / "north").read_bytes() == before
    assert "nnunet-gml: error:" in capsys.readouterr().err


def test_federation_check_accepts_sites_that_fit(tmp_path, capsys):
    """Names, addresses, and the digest to compare by telephone."""
    sites = build_sites(tmp_path)
    files = [str(tmp_path / "federation.toml"), *(str(site.path) for site in sites.values())]

    assert main(["federation", "check", *files]) == 0

    said = capsys.readouterr().out
    assert sites["north"].federation.digest in said
    assert said.count("(site.toml checked)") == 2


def test_federation_check_refuses_files_that_differ(tmp_path, capsys):
    """One blank line is another federation."""
    build_sites(tmp_path)
    other = tmp_path / "other.toml"
    other.write_text((tmp_path / "federation.toml").read_text() + "\n")

    assert main(["federation", "check", str(tmp_path / "federation.toml"), str(other)]) == 2
    assert "two federation files differ" in capsys.readouterr().err


def test_federation_check_refuses_two_sites_with_one_name(tmp_path, capsys):
    """Two installations that both say they are north."""
    sites = build_sites(tmp_path)
    copy = tmp_path / "copy.toml"
    copy.write_text(sites["north"].path.read_text())

    assert main(["federation", "check", str(sites["north"].path), str(copy)]) == 2
    assert "two sites are called 'north'" in capsys.readouterr().err


def test_an_unknown_key_is_told_with_the_nearest_known_one(tmp_path, capsys):
    """A typo in site.toml."""
    sites = build_sites(tmp_path)
    sites["north"].path.write_text(sites["north"].path.read_text() + 'privat_key = "x"\n')

    assert main(["federation", "check", str(sites["north"].path)]) == 2
    assert "private_key" in capsys.readouterr().err


def test_plans_digest_is_the_one_the_trainer_checks(phantom_data, capsys):
    """What goes into federation.toml."""
    (folder,) = (phantom_data() / "nnUNet_preprocessed").glob("Dataset*")
    capsys.readouterr()

    assert main(["plans", "digest", str(folder), CONFIGURATION]) == 0
    assert capsys.readouterr().out.strip() == plans_digest(*plans_of(phantom_data()), CONFIGURATION)


def test_plans_digest_by_name_is_another(phantom_data, capsys):
    """What goes into a federation.toml with the key classes."""
    (folder,) = (phantom_data() / "nnUNet_preprocessed").glob("Dataset*")
    planned = plans_of(phantom_data())
    capsys.readouterr()

    assert main(["plans", "digest", str(folder), CONFIGURATION, "--by-name"]) == 0

    said = capsys.readouterr().out.strip()
    assert said == plans_digest(*planned, CONFIGURATION, by_name=True)
    assert said != plans_digest(*planned, CONFIGURATION)


def test_plans_digest_without_plans_says_what_to_do(tmp_path, capsys):
    """Before planning."""
    assert main(["plans", "digest", str(tmp_path), "3d_fullres"]) == 2
    assert "hint: plan with nnU-Net first" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    """`nnunet-gml --help` must not wait for torch."""
    code = (
        "import sys; from nnunet_gml.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'nnunetv2', 'paramiko', 'scipy', 'SimpleITK'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["doctor", "status", "sync", "serve"])
def test_a_site_that_is_not_typed_is_that_of_the_environment(sites, command, monkeypatch, capsys):
    """Each says something about north; without the variable, how to set it."""
    monkeypatch.delenv(SITE_VARIABLE, raising=False)
    assert main([command]) == 2
    assert f"export {SITE_VARIABLE}=" in capsys.readouterr().err

    monkeypatch.setenv(SITE_VARIABLE, str(sites["north"].path))
    main([command])
    said = capsys.readouterr()
    assert "north" in said.out + said.err or "the training has not ordered anything yet" in said.out
