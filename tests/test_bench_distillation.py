"""benchmarks/distillation.py: its measuring and its page, on patches small enough for a test."""

import pytest
import torch

from nnunet_gml.learners import Learner

CPU = torch.device("cpu")
SHAPE = (1, 3, 24, 24, 24)


def test_peak_memory_counts_what_is_alive_at_once(bench):
    """By hand: 4 MB and 4 MB, one of them freed, then 4 MB more: 8 MB at most, and not 12."""

    def work():
        first, second = torch.empty(1_000_000), torch.empty(1_000_000)
        del first
        return torch.empty(1_000_000), second

    assert bench("distillation").peak_bytes(work, CPU) == pytest.approx(8e6, rel=0.01)


@pytest.mark.parametrize("foreground", [0.1, 0.5])
def test_the_reference_has_as_much_foreground_as_was_asked_for(bench, foreground):
    """To a voxel or two; the networks see the same but for the edges, and add a little."""
    patch = bench("patch").random_patch(SHAPE, foreground)

    assert float((patch.target > 0).double().mean()) == pytest.approx(foreground, abs=0.001)
    assert foreground < patch.foreground < 1.6 * foreground
    assert patch.target.shape == (1, 1, 24, 24, 24)
    assert not torch.equal(patch.logits, patch.peer_logits)


def test_the_worst_patch_is_all_foreground(bench):
    """No voxel that the loss could leave out, and both networks still disagree here and there."""
    patch = bench("patch").random_patch(SHAPE, 1.0)

    assert patch.foreground == 1.0 and bool((patch.target > 0).all())
    assert not torch.equal(patch.logits.argmax(1), patch.peer_logits.argmax(1))


def test_memory_and_time_of_a_small_patch(bench):
    """Every loss on both patches: more memory for the gradient than for the value, and times above 0."""
    module = bench("distillation")

    memory = [row for dtype in module.TYPES for row in module.memory_rows(CPU, SHAPE, dtype)]
    times = module.time_rows(CPU, (1, 3, 16, 32, 32), 1, features=(2, 2, 2))

    assert [row.loss for row in memory] == [row.loss for row in times] * 2 == [*module.LOSSES] * 4
    assert memory[0].logits_mib == 2 * memory[-1].logits_mib
    assert all(row.whole > 1 and row.forward < row.whole for row in memory)
    assert all(row.loss_seconds.median > 0 and row.step_seconds.median > 0 for row in times)


def test_the_step_is_nnunets_own(bench):
    """Its loss counts the coarsest scale 0, and the others 1, 1/2, ... of a sum of 1: here 4/7, 2/7, 1/7."""
    loss = bench("distillation").stock_loss(4)

    assert loss.weight_factors == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))


def test_the_step_trains(bench, monkeypatch):
    """A call moves the network."""
    module, seen = bench("distillation"), []
    monkeypatch.setattr(module, "Learner", lambda *parts: seen.append(Learner(*parts)) or seen[-1])
    step = module.stock_step(CPU, (1, 3, 16, 32, 32), (2, 2, 2))
    before = [p.detach().clone() for p in seen[0].network.parameters()]

    step()

    assert any(not torch.equal(p, old) for p, old in zip(seen[0].network.parameters(), before, strict=True))


def test_the_page_says_which_targets_are_missed(bench):
    """By hand: 1.9 of 2 tensors and 4.9 % are met, 2 tensors and 5 % are not."""
    module, figures = bench("distillation_page"), bench("measuring").Figures
    memory = [module.Memory("CPU", "2x3", "agree", 0.08, 192.0, 0.5, whole) for whole in (1.9, 2.0)]
    step = figures(10.0, 9.0, 11.0)
    times = [module.Time("CPU", "2x3", "agree", 1.0, figures(s, s, s), step) for s in (0.49, 0.5)]

    text = module.page(memory, times, repeats=3, parameters=30_700_000, remark="a remark")

    rows = [line for line in text.splitlines() if line.startswith("| CPU")]
    assert rows[0] == "| CPU | 2x3 | 192 | agree | 8% | 0.50 | 1.90 | met |"
    assert rows[1].endswith("| 2.00 | **missed** |")
    assert rows[2].endswith("| 0.490 s (0.490 to 0.490) | 10.000 s (9.000 to 11.000) | 4.9% | met |")
    assert rows[3].endswith("| 5.0% | **missed** |")
    assert "31 million" in text and "a remark" in text


def test_the_command_writes_the_page(bench, monkeypatch, tmp_path, capsys):
    """On small patches, from the arguments to the file."""
    module = bench("distillation")
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    for name, value in {"FULL": SHAPE, "SMALL": (1, 3, 16, 32, 32), "FEATURES": (2, 2, 2)}.items():
        monkeypatch.setattr(module, name, value)

    assert module.main(["--repeats", "1", "--out", str(tmp_path / "page.md")]) == 0

    assert (tmp_path / "page.md").read_text() == capsys.readouterr().out
    assert "1x3x24x24x24" in (tmp_path / "page.md").read_text()
