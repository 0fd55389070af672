"""What README, documentation and examples show exists: links, commands, settings, code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nnunet_gml.averaging import FedAvgTrainer, GossipAverageTrainer
from nnunet_gml.cli import parser
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.site_trainer import SiteTrainer
from nnunet_gml.trainer import FederatedTrainer
from peer_sync.federation import FEDERATION_KEYS, MEMBER_KEYS
from peer_sync.site import JUMP_KEYS, SITE_KEYS

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"

if not DOCS.exists():
    pytest.skip("the tests run without the repository", allow_module_level=True)

PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(REPOSITORY.glob("examples/**/*.md"))]
KNOWN_KEYS = {*SITE_KEYS, *FEDERATION_KEYS, *MEMBER_KEYS, *JUMP_KEYS}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Every call of nnunet-gml in a page's shell blocks, also one inside $(...)."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    calls = [re.search(r"(?:^|\$\(|&& )nnunet-gml ([^)|&]*)", line) for line in lines]
    return [call[1] for call in calls if call]


@every_page
def test_links_lead_somewhere(page):
    """Every relative link is a file."""
    for link in re.findall(r"\]\((?![a-z]+:)([^)#\s]+)[^)]*\)", page.read_text()):
        assert (page.parent / link).exists(), link


@every_page
def test_commands_are_the_parsers(page, capsys):
    """Every command shown is one that the command line takes, options and all."""
    for call in commands(page):
        words = shlex.split(call, comments=True)
        try:
            parser().parse_args(words)
        except SystemExit as stopped:
            assert stopped.code == 0, f"nnunet-gml {call}: {capsys.readouterr().err}"


@every_page
def test_settings_are_known(page):
    """Every TOML block is TOML, and its keys are some that the parsers know."""
    for block in blocks(page, "toml"):
        content = tomllib.loads(block)
        tables = [content, *content.get("sites", [])]
        assert {key for table in tables for key in table} <= KNOWN_KEYS


@every_page
def test_python_blocks_run(page):
    """And a trainer's settings in them are attributes that exist."""
    for block in blocks(page, "python"):
        namespace: dict[str, object] = {}
        exec(block, namespace)
        for name, variant in namespace.items():
            if name.startswith("nnUNetTrainer"):
                own = [attribute for attribute in vars(variant) if not attribute.startswith("_")]
                assert own and all(hasattr(variant.__mro__[1], attribute) for attribute in own)


def rows(page: Path, heading: str = "") -> dict[str, str]:
    """First and second column of a page's tables, of those below a heading."""
    text = page.read_text().split(heading)[1] if heading else page.read_text()
    text = text.split("\n\n`", 1)[0] if heading else text
    return dict(re.findall(r"^\| `([\w\[\]]+)` \| (.*?) \|", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "trainer"),
    [
        ("All trainers:", FederatedTrainer),
        ("`nnUNetTrainerGML`, `nnUNetTrainerGMLFrozen`, `nnUNetTrainerGCML`:", GossipTrainer),
        ("`nnUNetTrainerGossipAverage`:", GossipAverageTrainer),
        ("`nnUNetTrainerFedAvg`; `nnUNetTrainerFedProx` has 0.01:", FedAvgTrainer),
    ],
)
def test_every_setting_of_a_trainer_has_its_default_in_the_reference(heading, trainer):
    """The table has each simple class attribute that users may set, and its value."""
    shown = rows(DOCS / "reference" / "trainers.md", heading)
    others = (SiteTrainer if trainer is FederatedTrainer else FederatedTrainer).__mro__
    settings = {
        name: f"`{value!r}`"
        for owner in trainer.__mro__
        if owner not in others
        for name, value in vars(owner).items()
        if type(value) in (bool, int, float, str) and not name.startswith("_")
    }
    internal = {"in_lock_step", "round"}
    assert shown == {name: value for name, value in settings.items() if name not in internal}


@pytest.mark.parametrize(
    ("page", "keys"),
    [("site-toml.md", SITE_KEYS), ("federation-toml.md", {*FEDERATION_KEYS, *MEMBER_KEYS})],
)
def test_every_key_of_the_files_is_in_the_reference(page, keys):
    """The tables have all keys and no other."""
    assert {name.strip("[]") for name in rows(DOCS / "reference" / page)} == set(keys)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Cross-references, tables of contents and docstrings, as `make docs` builds them."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "--keep-going", "-b", "html", DOCS, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    page = (tmp_path / "reference" / "cli.html").read_text()
    assert "simulate" in page and "--epochs" in page
