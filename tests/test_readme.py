"""What README promises: the commands and files it names exist, its settings parse."""

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"

if not README.exists():
    pytest.skip("the tests run without the repository", allow_module_level=True)
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_links_lead_somewhere():
    """Every relative link is a file of the repository."""
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (REPOSITORY / link).exists(), link


def test_settings_parse():
    """Both TOML examples are TOML, with the keys the parsers know."""
    federation, site = (tomllib.loads(block) for block in blocks("toml"))

    from peer_sync.site import SITE_KEYS

    assert set(site) <= set(SITE_KEYS)
    assert {"name", "seed", "plans_digest", "sites"} == set(federation)


def test_named_commands_are_the_parsers(capsys):
    """Every `nnunet-gml COMMAND` exists."""
    from nnunet_gml.cli import main

    named = {
        words
        for block in blocks("sh")
        for words in re.findall(r"nnunet-gml ((?:federation |plans )?[a-z]+)", block)
    }
    assert len(named) >= 4
    for words in named:
        with pytest.raises(SystemExit) as stopped:
            main([*words.split(), "--help"])
        assert stopped.value.code == 0


def test_the_variant_is_a_trainer():
    """The Python example runs, and its numbers are attributes that exist."""
    (code,) = blocks("python")
    namespace: dict[str, object] = {}

    exec(code, namespace)

    variant = namespace["nnUNetTrainerGML_often"]
    assert variant.epochs_per_round == 5
    assert all(hasattr(variant.__mro__[1], name) for name in vars(variant) if not name.startswith("_"))


def test_the_sshd_lines_are_the_ones_that_are_tested():
    """README shows examples/sshd/sshd_config to the byte; test_openssh.py starts an sshd with it."""
    assert f"```\n{(REPOSITORY / 'examples' / 'sshd' / 'sshd_config').read_text()}```" in TEXT
