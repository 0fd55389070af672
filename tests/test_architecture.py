"""Who may import whom: what a security officer or a researcher can rely on when reading one package."""

import ast
from pathlib import Path

import pytest

import nnunet_gml
import peer_sync

COURIER = Path(peer_sync.__file__).parent
SITE = Path(nnunet_gml.__file__).parent
SSH_MODULES = (
    "answering.py",
    "child.py",
    "connection.py",
    "embedded.py",
    "failures.py",
    "guest.py",
    "session.py",
    "ssh.py",
)
METHOD = (
    "channels",
    "distillation",
    "divergence",
    "masks",
    "merging",
    "mutual",
    "outputs",
    "partial_labels",
    "payload",
    "precision",
    "proximal",
    "ranks",
    "tensors",
    "trust",
    "voxels",
    "weights",
)


def imported(path: Path) -> set[str]:
    """Top-level names of everything a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def loads(path: Path) -> list[str]:
    """Every call of ``torch.load`` as it is written."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return [ast.unparse(call) for call in calls if ast.unparse(call.func) == "torch.load"]


@pytest.mark.parametrize("path", sorted(COURIER.rglob("*.py")), ids=lambda p: p.name)
def test_the_courier_knows_neither_torch_nor_nnunet(path):
    """peer_sync moves files and facts; only its SSH modules import paramiko."""
    forbidden = {"nnunet_gml", "nnunetv2", "torch", "numpy"}
    if path.name not in SSH_MODULES:
        forbidden.add("paramiko")

    assert not imported(path) & forbidden


@pytest.mark.parametrize("name", METHOD)
def test_the_method_knows_neither_the_courier_nor_nnunet(name):
    """Pure functions on tensors."""
    assert not imported(SITE / f"{name}.py") & {"peer_sync", "nnunetv2", "paramiko"}


@pytest.mark.parametrize("path", [*COURIER.rglob("*.py"), *SITE.rglob("*.py")], ids=lambda p: p.name)
def test_nothing_is_unpickled_but_our_own_checkpoint(path):
    """A stranger's bytes never reach pickle; the trainer may reread the checkpoint it has just written."""
    assert not imported(path) & {"pickle", "dill", "joblib", "cloudpickle"}
    if path.name != "trainer.py":
        assert all("weights_only=True" in call for call in loads(path))
