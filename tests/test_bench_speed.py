"""benchmarks/speed.py: the command and its page; start-up and surface metrics, on what takes no time."""

import json
import sys

import pytest

SAID = "| mutual | 2.30 | 2.10 | **missed** |"


@pytest.fixture
def steps(bench, monkeypatch):
    """The part steps without its measuring; one row misses its target."""
    module = bench("speed_steps")
    monkeypatch.setattr(module, "measure", lambda settings: {"repetitions": settings.repetitions})
    monkeypatch.setattr(module, "tables", lambda found: f"{SAID}\n")
    return module


def call(bench, out, *words):
    return bench("speed").main(["--device", "cpu", "--out", str(out), *words])


def test_a_quick_run_leaves_the_documentation_alone(bench, steps, tmp_path, monkeypatch):
    """Its page stands beside what it measured, and says that the numbers mean nothing."""
    monkeypatch.setattr(bench("speed"), "RESULTS", tmp_path / "docs")

    assert call(bench, tmp_path / "out", "steps", "--quick") == 0

    text = (tmp_path / "out" / "quick" / "speed.md").read_text()
    assert SAID in text and "mean nothing" in text
    assert not (tmp_path / "docs").exists()


def test_a_parts_file_says_where_and_with_what_it_was_made(bench, steps, tmp_path):
    """Versions, machine and repetitions stand beside the numbers."""
    call(bench, tmp_path, "steps", "--page", str(tmp_path), "--repetitions", "7")

    found = json.loads((tmp_path / "steps.json").read_text())
    assert found["found"] == {"repetitions": 7}
    assert found["machine"]["cores"] > 0 and found["versions"]["torch"]
    assert json.loads((tmp_path / "speed.json").read_text()) == {"steps": found}


def test_missing_parts_are_named_and_notes_are_kept(bench, steps, tmp_path):
    """What people have written below the heading survives the next call."""
    call(bench, tmp_path, "steps", "--page", str(tmp_path))
    page = tmp_path / "speed.md"
    page.write_text(page.read_text().replace("Nothing yet.", "It was the allocator."))

    call(bench, tmp_path, "--only-page", "--page", str(tmp_path))

    text = page.read_text()
    assert "Not measured: memory, stall, wire, scale, schedule, startup, surfaces." in text
    assert text.count("It was the allocator.") == 1 and "Nothing yet." not in text


def test_an_unknown_part_ends_at_once(bench, tmp_path, capsys):
    """With the names of those there are."""
    with pytest.raises(SystemExit):
        call(bench, tmp_path, "step")

    assert "choose from steps, memory" in capsys.readouterr().err


def test_a_missed_target_has_its_reason_or_the_want_of_one(bench):
    """Reasons are found by part and by any cell of the row; equal ones stand once."""
    reasons = bench("speed_page").reasons

    assert reasons("steps", f"{SAID}\n{SAID}", {("steps", "mutual"): "why."}) == ["mutual: why."]
    assert reasons("memory", SAID, {("steps", "mutual"): "why."}) == ["mutual, 2.30: no reason known yet."]
    assert reasons("steps", SAID.replace("**missed**", "met")) == []


def test_every_part_has_what_the_command_asks_for(bench):
    """Its own name, a title, and the two functions."""
    for part in bench("speed_page").PARTS:
        module = bench(f"speed_{part}")
        assert part == module.PART and module.TITLE
        assert callable(module.measure) and callable(module.tables)


@pytest.mark.parametrize(
    ("value", "limit", "word"), [(1.4, None, "met"), (1.5, 1.33, "**missed** (limit 1.33)")]
)
def test_a_target_that_is_just_reached_is_met(bench, value, limit, word):
    """At most 1.4."""
    assert bench("speed_settings").verdict(value, 1.4, limit) == word


def test_what_is_not_a_number_meets_no_target(bench):
    """A failed measurement is never good news."""
    assert bench("speed_settings").verdict(float("nan"), 1.4) == "**missed**"


def test_seconds_of_a_process(bench):
    """It sleeps for longer than it works."""
    words = [sys.executable, "-c", "import time; time.sleep(0.3)"]

    seconds = bench("speed_startup").timed(words)

    assert seconds["wall"] > 0.3 > seconds["cpu"] > 0


def test_a_command_that_fails_is_not_timed(bench):
    """A crash is fast, but no start."""
    module = bench("speed_startup")

    with pytest.raises(RuntimeError, match="ended with 3"):
        module.timed([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="wrong"):
        module.started([sys.executable, "-c", "raise SystemExit('wrong')"], {})


def test_the_command_ends_after_its_first_step(bench, tmp_path):
    """A stand-in for nnU-Net that would train for ever."""
    module = bench("speed_startup")
    trainer = "class nnUNetTrainer:\n    def train_step(self, batch):\n        print('step', batch)\n"
    where = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
    entry = f"from {where} import nnUNetTrainer\n"
    entry += "def run_training_entry():\n    while True:\n        nnUNetTrainer().train_step(1)\n"
    for name, text in (("run.run_training", entry), (where.removeprefix("nnunetv2."), trainer)):
        path = tmp_path / "nnunetv2" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in (tmp_path / "nnunetv2", *(tmp_path / "nnunetv2").rglob("*/")):
        (folder / "__init__.py").touch()

    seconds = module.started([sys.executable, "-c", module.FIRST_STEP], {"PYTHONPATH": str(tmp_path)})

    assert seconds["wall"] > 0 and seconds["cpu"] > 0


def test_help_is_judged_by_what_a_user_waits(bench):
    """By hand: medians of 0.5 s and 0.6 s against 0.5 s; the CPU's seconds are not asked."""
    module = bench("speed_startup")

    def cells(wall):
        return module.row({module.HELP: [{"wall": wall, "cpu": 0.9}]}, module.HELP)

    assert cells(0.5)[3] == "met" and cells(0.6)[3] == "**missed**"


def test_the_first_step_is_held_against_stocks_in_cpu_seconds(bench):
    """By hand: 6 / 4."""
    module = bench("speed_startup")
    names = [f"first step of {trainer}" for trainer in module.TRAINERS]
    seconds = {name: [{"wall": 9.0, "cpu": cpu}] for name, cpu in zip(names, (4.0, 6.0), strict=True)}

    assert module.row(seconds, names[1])[1] == "1.50 (1.50 to 1.50)"


def test_cases_per_second_are_counted_block_by_block(bench):
    """By hand: 10 blocks of 2 cases, each case half a second after the one before; then one of 2 s."""
    rates = bench("speed_surfaces").rates
    even = [0.5 * (number + 1) for number in range(20)]

    assert rates(even).least == rates(even).most == 2.0
    assert rates([*even[:-1], even[-1] + 1.0]).least == 1.0


@pytest.fixture
def phantoms(bench, tmp_path, monkeypatch):
    """The folder of two phantom cases, where there are no real contours."""
    monkeypatch.setenv("GML_DATA", str(tmp_path / "nothing"))
    module = bench("speed_surfaces")
    monkeypatch.setattr(module, "PHANTOMS", 2)
    assert "phantom" in module.prepare(tmp_path / "different", quick=True)
    return tmp_path


def test_the_same_cases_are_said_to_be_the_same(bench, phantoms):
    """Three cases of two: the third is the first again; every class of every case is measured."""
    module = bench("speed_surfaces")
    predicted = module.spread(phantoms, 3)

    found = module.run(predicted, jobs=1)
    text = module.tables(
        {"what": "phantoms", "cases": 3, "different": 2, "classes": 5, "together": found, "alone": [found]}
    )

    assert predicted.reference("case_0002").resolve() == predicted.reference("case_0000").resolve()
    assert found["surfaces"] == 3 * 5 and len(found["seconds"]) == len(found["mebibytes"]) == 3
    assert "3 cases with 5 classes" in text
    assert "These are 2 different cases, each measured about 2 times under other names." in text
    assert "| two processes over one | 1.00 | 0.6 | **missed** |" in text
