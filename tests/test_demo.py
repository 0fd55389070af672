"""The demo's own part: its data, and the files it names at the end."""

from nnunet_gml.commands import demo
from nnunet_gml.phantom import STYLES


def test_the_demo_uses_every_built_in_site():
    """Names are written twice so that --help stays fast; they must agree."""
    assert tuple(STYLES) == demo.SITES


def test_phantom_is_built_once(tmp_path, monkeypatch):
    """A raw dataset that is there is left as it is, and a half-written one has another name."""
    monkeypatch.setattr(demo, "TRAINING_CASES", 1)
    monkeypatch.setattr(demo, "TEST_CASES", 1)

    first = demo.phantom(tmp_path, "north", 0, seed=1)
    written = (first / "dataset.json").stat().st_mtime_ns
    again = demo.phantom(tmp_path, "north", 0, seed=1)

    assert first == again == tmp_path / "Dataset901_north"
    assert (again / "dataset.json").stat().st_mtime_ns == written


def test_only_files_that_exist_are_named(tmp_path):
    """Nobody is sent to a file that a failed site did not write."""
    (tmp_path / "table.md").touch()
    ledger = tmp_path / "sites" / "north" / "mail" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.touch()

    assert [path for path, _ in demo.files_to_open(tmp_path)] == [tmp_path / "table.md", ledger]
