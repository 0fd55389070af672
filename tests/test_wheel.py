"""What a user gets from the built wheel, away from the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (REPOSITORY / "pyproject.toml").exists(), reason="needs the repository"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and installed alone into a folder; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(REPOSITORY),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, capture_output=True
    )
    return target


def run(installed: Path, code: str, **variables: str) -> str:
    """Output of Python code that sees the installed wheel first and not the repository."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed), **variables},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_only_names_of_our_own_are_installed(installed):
    """No top-level `trainers` or `tests` that could shadow somebody else's."""
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}

    assert names == {"nnunet_gml", "peer_sync", "nnunet_gml_trainers", "bin"}
    assert (installed / "peer_sync" / "PROTOCOL.md").exists()


def test_nnunet_finds_the_trainers_of_the_wheel(installed):
    """`nnunet-gml trainers` names the installed folder, and nnU-Net's look-up finds the class there."""
    folder = run(installed, "from nnunet_gml.cli import main; main(['trainers'])")
    code = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "import sys; print(sys.modules[find('nnUNetTrainerGML').__mro__[1].__module__].__file__)"
    )

    found = run(installed, code, nnUNet_extTrainer=folder)

    assert folder == str(installed / "nnunet_gml_trainers")
    assert found.splitlines()[-1] == str(installed / "nnunet_gml" / "learning.py")
