"""nnU-Net's checkpoint with further keys: one file, whole at any time."""

import pytest
import torch

from nnunet_gml import checkpoints


def save(filename):
    """As nnU-Net's trainer does."""
    torch.save({"network_weights": {"w": torch.arange(3)}, "trainer_name": "ours"}, filename)


def load(path):
    return torch.load(path, weights_only=False)


def test_further_keys_beside_nnunets_own(tmp_path):
    """Also other values for its own; nothing else lies in the folder afterwards."""
    path = tmp_path / "checkpoint_latest.pth"

    checkpoints.write(path, save, {"trainer_name": "stock", "more": 1})

    found = load(path)
    assert torch.equal(found.pop("network_weights")["w"], torch.arange(3))
    assert found == {"trainer_name": "stock", "more": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_torch_saves_again_afterwards(tmp_path):
    """Also when nnU-Net could not say what to save."""

    def fail(_):
        raise RuntimeError("no weights")

    with pytest.raises(RuntimeError, match="no weights"):
        checkpoints.write(tmp_path / "a.pth", fail, {})
    save(tmp_path / "b.pth")

    assert [path.name for path in tmp_path.iterdir()] == ["b.pth"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """It is replaced when the new one is whole."""
    path = tmp_path / "checkpoint_latest.pth"
    checkpoints.write(path, save, {"more": 1})

    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("PytorchStreamWriter failed writing file")

    with pytest.raises(RuntimeError, match="failed writing"):
        checkpoints.write(path, save, {"more": Unpicklable()})

    assert load(path)["more"] == 1
    assert list(tmp_path.iterdir()) == [path]
