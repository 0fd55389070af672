"""benchmarks/evidence.py: the figures and tables of several seeds, by hand."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_gml import stats
from nnunet_gml.commands import simulate
from nnunet_gml.simulation import several
from nnunet_gml.simulation.recipe import parse_arm
from nnunet_gml.simulation.scores import Score, write_scores
from peer_sync.errors import ConfigError

TRAINERS = [
    "alone=nnUNetTrainer",
    "pooled",
    "fedavg=nnUNetTrainerFedAvg",
    "mutual=nnUNetTrainerGML",
]


def write_run(folder, seed, dice, finished=("a", "b"), **changes):
    """A run folder with two sites, one held-out case each, classes big and tiny.

    ``dice``: per arm and site, of the two classes; ``changes``: of run.json.
    """
    folder.mkdir(parents=True)
    scores = [
        Score(site, arm, f"case-{site}", name, value, f"patient-{site}{seed}")
        for arm, sites in dice.items()
        for site, values in sites.items()
        if site in finished or arm != "mutual"
        for name, value in zip(("big", "tiny"), values, strict=True)
    ]
    write_scores(folder / "results.csv", scores)
    record = {
        "recipe": {"trainers": TRAINERS, "device": "cpu", "epochs": 2},
        "sites": {"a": "", "b": ""},
        "moved_bytes": {
            "alone": {"a": 0, "b": 0},
            "pooled": {"a": None, "b": None},
            "fedavg": {"a": 3_000_000, "b": 3_000_000},
            "mutual": {"a": 1_000_000, "b": 2_000_000},
        },
        "steps": [
            {"title": "train mutual, sites side by side", "arm": "mutual", "seconds": 60.0, "run": True},
            {"title": "train mutual, sites side by side", "arm": "mutual", "seconds": 30.0, "run": True},
            {"title": "predict the held-out cases", "arm": "mutual", "seconds": 500.0, "run": True},
        ],
        "versions": {"torch": "1"},
        "prediction": "without mirroring",
        "threads_per_training": 1,
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(record))


DICE = {
    "alone": {"a": (0.6, 0.2), "b": (0.5, math.nan)},
    "pooled": {"a": (0.9, 0.9), "b": (0.9, 0.9)},
    "fedavg": {"a": (0.6, 0.4), "b": (0.5, 0.5)},
    "mutual": {"a": (0.8, 0.4), "b": (0.4, 0.0)},
}


def results_of(folder, *seeds):
    """The results of a folder's runs with these seeds."""
    return several.Results(several.read_runs((seed, folder / f"seed-{seed}") for seed in seeds))


@pytest.fixture
def results(tmp_path):
    """Two seeds; with the second one, site b has not finished mutual."""
    write_run(tmp_path / "seed-1", 1, DICE)
    write_run(tmp_path / "seed-2", 2, DICE, finished=("a",))
    return results_of(tmp_path, 1, 2, 3)


def test_mean_dice_by_hand(results):
    """Alone: case a 0.4, case b 0.5 (tiny is nowhere), mean 0.45; of tiny, case a only: 0.2."""
    assert results.dice("alone") == pytest.approx(0.45)
    assert results.dice("alone", "b") == pytest.approx(0.5)
    assert results.dice("alone", None, ["tiny"]) == pytest.approx(0.2)
    assert math.isnan(results.dice("unheard of"))


def test_an_arm_counts_where_every_site_has_finished(results):
    """Mutual: seed 1 only, (0.6 + 0.2) / 2; a run that is not there is no seed."""
    assert results.seeds("alone") == (1, 2)
    assert results.seeds("mutual") == (1,)
    assert results.dice("mutual") == pytest.approx(0.4)


def test_gain_is_paired_by_case_and_class(results):
    """Big only: 0.8 - 0.6 = 0.2 and 0.4 - 0.5 = -0.1; mean 0.05, two patients."""
    found = results.compare("mutual", "alone", classes=["big"])

    assert found.gain == pytest.approx(0.05)
    assert found.patients == 2


def test_an_organ_where_there_is_none_counts_against_its_arm(results):
    """b: big 0.4 - 0.5 = -0.1; tiny is absent, mutual shows it: 0 - 1; mean -0.55. Turned round +0.55."""
    assert results.compare("mutual", "alone", "b").gain == pytest.approx(-0.55)
    assert results.compare("alone", "mutual", "b").gain == pytest.approx(0.55)
    assert results.worst_gain("mutual", "alone") == ("b", pytest.approx(-0.55))


def test_a_class_that_both_rightly_leave_out_is_no_pair(bench, tmp_path):
    """b: tiny is nan for both arms; big alone counts, 0.4 - 0.5."""
    write_run(tmp_path / "seed-1", 1, {**DICE, "mutual": {"a": (0.8, 0.4), "b": (0.4, math.nan)}})

    assert results_of(tmp_path, 1).compare("mutual", "alone", "b").gain == pytest.approx(-0.1)


def test_an_arm_counts_on_the_cases_of_the_individual_arm(bench, tmp_path):
    """Alone has a second case at site a: the other arms, without it, are not finished."""
    write_run(tmp_path / "seed-1", 1, DICE)
    with (tmp_path / "seed-1" / "results.csv").open("a") as file:
        file.write("a,alone,second,big,0.5,patient-x\na,alone,second,tiny,0.5,patient-x\n")

    found = results_of(tmp_path, 1)

    assert (found.seeds("alone"), found.seeds("mutual")) == ((1,), ())


def test_cases_without_a_patient_are_one_each(bench, tmp_path):
    """Two sites with a case of one name: two patients."""
    write_run(tmp_path / "seed-1", 1, DICE)
    scores = [Score(site, arm, "1", "big", 0.5) for arm in ("alone", "mutual") for site in "ab"]
    write_scores(tmp_path / "seed-1" / "results.csv", scores)

    assert results_of(tmp_path, 1).compare("mutual", "alone").patients == 2


OTHER_EPOCHS = {"recipe": {"trainers": TRAINERS, "device": "cpu", "epochs": 3}}
OTHER_ARM = {
    "recipe": {"trainers": [*TRAINERS[:3], "mutual=nnUNetTrainerGML,mask=gt"], "device": "cpu", "epochs": 2}
}


def trained(**settings):
    """What run.json says of a training of mutual."""
    machine = {"processor": "Abacus 3", "cores": 7}
    return {"trained": {"mutual": {"version": "1", "settings": settings, "machines": [machine]}}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (OTHER_EPOCHS, "epochs is 2 in seed-1, but 3 in seed-2"),
        (OTHER_ARM, "trainers: .* in seed-1, but .*gt.* in seed-2"),
        (trained(mask="gt"), "mask of the arm mutual is agree in seed-1, but gt in seed-2"),
    ],
)
def test_runs_that_were_not_made_alike_are_not_mixed(bench, tmp_path, changes, named):
    """Another length, another arm of one name, another default of its class: run and field are named."""
    write_run(tmp_path / "seed-1", 1, DICE, **trained(mask="agree"))
    write_run(tmp_path / "seed-2", 2, DICE, **changes)

    with pytest.raises(ConfigError, match=named):
        results_of(tmp_path, 1, 2)


def test_the_reference_is_made_as_the_arms_are(bench, tmp_path):
    """With all contours, which it is for, but not with another number of epochs."""
    plans, page = bench("evidence_plans"), bench("evidence_page")
    recipe = {"trainers": TRAINERS, "device": "cpu", "epochs": 2}
    write_run(tmp_path / "seed-1", 1, DICE, recipe={**recipe, "unlabelled": ["north=parotids"]})
    write_run(tmp_path / "seed-1-all-labels", 1, DICE)
    words = (tmp_path / "page.md", plans.EXPERIMENTS["partial"], tmp_path, [1], "the command")

    page.write_page(*words)
    record = tmp_path / "seed-1-all-labels" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "recipe": {**recipe, "epochs": 3}}))

    with pytest.raises(ConfigError, match="epochs is 2 in seed-1, but 3 in seed-1-all-labels"):
        page.write_page(*words)


def test_runs_may_differ_in_data_seed_and_choice_of_arms(bench, tmp_path):
    """That is what several seeds are."""
    other = {"trainers": TRAINERS[:2], "device": "cpu", "epochs": 2, "seed": 2, "datasets": ["x"]}
    write_run(tmp_path / "seed-1", 1, DICE)
    write_run(tmp_path / "seed-2", 2, DICE, recipe=other)

    assert results_of(tmp_path, 1, 2).seeds("alone") == (1, 2)


def test_runs_that_cannot_be_mixed_end_with_a_sentence(bench, tmp_path, capsys):
    """No traceback: what differs, and exit code 1."""
    runs = tmp_path / "headneck"
    write_run(runs / "seed-1", 1, DICE)
    write_run(runs / "seed-2", 2, DICE, **OTHER_EPOCHS)
    words = ["headneck", "--only-page", "--seeds", "1", "2", "--out", str(tmp_path), "--page", str(tmp_path)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GML_DATA", str(tmp_path / "nowhere"))
        assert bench("evidence").main(words) == 1

    assert capsys.readouterr().err.startswith("evidence: epochs is 2 in seed-1, but 3 in seed-2")


def test_rounds_without_a_peer_are_named(bench, tmp_path):
    """Mutual had nobody in round 3 of 8 at site b; nobody counted fedavg's."""
    counted = {"mutual": {"due": 8, "without_peer": {"a": [], "b": [3]}}}
    write_run(tmp_path / "seed-1", 1, DICE, rounds=counted)

    sentence = bench("evidence_page").rounds_sentence(results_of(tmp_path, 1))

    assert sentence == (
        "Rounds without a peer (for FedAvg: without one of the others): "
        "mutual at b, seed 1: 3 of 8. Not counted: fedavg.\n"
    )


def test_no_round_without_a_peer(bench, tmp_path):
    """None is said, not left out."""
    counted = {arm: {"due": 8, "without_peer": {"a": [], "b": []}} for arm in ("mutual", "fedavg")}
    write_run(tmp_path / "seed-1", 1, DICE, rounds=counted)

    sentence = bench("evidence_page").rounds_sentence(results_of(tmp_path, 1))

    assert sentence.endswith("): none.\n")


def test_the_page_names_the_machine_of_the_run(bench, tmp_path):
    """Not the one on which the page is made."""
    write_run(tmp_path / "seed-1", 1, DICE, **trained(mask="agree"))
    page, plans = bench("evidence_page"), bench("evidence_plans")

    page.write_page(tmp_path / "page.md", plans.EXPERIMENTS["headneck"], tmp_path, [1], "the command")

    text = (tmp_path / "page.md").read_text()
    assert "7 CPU cores (Abacus 3)" in text
    assert "Rounds without a peer" in text


def test_one_seed_of_headneck_cannot_reach_five_percent(bench):
    """Seven held-out patients: 2 / 2**7 = 0.0156 at best, times seven arms 0.109; the page says so."""
    patients = sum(site.test for site in bench("headneck").SITES)
    plans = bench("evidence_plans")
    smallest = stats.signed_rank_p({str(n): [n + 1.0] for n in range(patients)})

    corrected = stats.holm([smallest] * (len(plans.REDUCED) - 1))

    assert (patients, round(smallest, 3), round(corrected[0], 2)) == (7, 0.016, 0.11)
    assert "holds out 7\npatients" in plans.HEADNECK
    assert "0.016" in plans.HEADNECK
    assert "0.11" in plans.HEADNECK


@pytest.mark.parametrize(
    "said", ["the randomness of training", "*pooled*, which draws from another", "less than twice"]
)
def test_the_page_says_what_its_figures_do_not_cover(bench, said):
    """Intervals, patches and times of the arms are not what a reader would take them for."""
    assert said in bench("evidence_page").FAIR


@pytest.mark.parametrize(
    ("experiment", "sizes"),
    [("partial", (40, 30, 14, 2, 2, 0.05)), ("hippocampus", (30, 40, 10, 2, 1, 0.05))],
)
def test_sizes_of_experiments(bench, experiment, sizes):
    """Peers know the organs themselves before they teach them; the command line can read the sizes."""
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    options = bench("evidence_plans").EXPERIMENTS[experiment].options

    made = simulate.recipe_of(parser.parse_args(["raw", "--out", "o", *options]))

    lengths = (made.epochs, made.iterations, made.warmup_epochs, made.epochs_per_round, made.mutual_epochs)
    assert (*lengths, made.learning_rate) == sizes


def test_bytes_and_seconds_by_hand(results):
    """1 + 2 MB; 60 + 30 s of training, prediction apart; pooling has nothing to count."""
    assert results.moved_bytes("mutual") == 3e6
    assert math.isnan(results.moved_bytes("pooled"))
    assert results.training_seconds("mutual") == 90


def test_share_of_fedavgs_bytes(bench, results):
    """3 of 6 MB are 50 %. Two sites: a server would move 2N = 4 files, not N(N - 1) = 2, so 25 % of that."""
    rows = [line.split(" | ") for line in bench("evidence_page").arm_table(results).splitlines()]

    mutual = next(row for row in rows if row[0] == "| mutual")
    assert mutual[rows[0].index("MB") :][:3] == ["3.0", "50%", "25%"]


def test_share_of_the_missing_organ(bench, results):
    """Tiny at site a: 0.4 of mutual and 0.2 of the reference (alone): 200 %."""
    table = bench("evidence_page").missing_table(results, results, "a", "tiny")

    mutual = next(line for line in table.splitlines() if line.startswith("| mutual"))
    assert mutual == "| mutual | 0.4000 | 200% | 0.0000 |"


def test_page_keeps_notes_and_names_what_is_missing(bench, tmp_path):
    """What people wrote below the heading survives; arms that were not run, or not finished, are named."""
    plans, page = bench("evidence_plans"), bench("evidence_page")
    write_run(tmp_path / "runs" / "seed-1", 1, DICE, finished=("a",))
    target = tmp_path / "page.md"
    target.write_text(f"old\n\n{page.NOTES}\n\nA merge at once was worse.\n")

    page.write_page(target, plans.EXPERIMENTS["headneck"], tmp_path / "runs", [1], "the command")

    text = target.read_text()
    assert text.endswith(f"{page.NOTES}\n\nA merge at once was worse.\n")
    assert "Not finished at every site: mutual." in text
    assert "gossipavg" in text
    assert "real contours, synthetic intensities" in text.lower()
    assert "old" not in text.split("\n")


def test_the_page_warns_of_arms_with_fewer_seeds(bench, tmp_path):
    """A mean over other seeds is one over other cases; with equal seeds there is nothing to warn of."""
    page, plans = bench("evidence_page"), bench("evidence_plans")
    write_run(tmp_path / "seed-1", 1, DICE)
    write_run(tmp_path / "seed-2", 2, DICE, finished=("a",))
    texts = []
    for seeds in ([1], [1, 2]):
        page.write_page(tmp_path / "page.md", plans.EXPERIMENTS["few"], tmp_path, seeds, "the command")
        texts.append((tmp_path / "page.md").read_text())

    assert ["compare gains" in text for text in texts] == [False, True]


def test_what_takes_the_method_apart_is_compared_with_the_whole(bench, tmp_path):
    """Arms that exchange minus the whole method, baselines among them; elsewhere there is no such table."""
    page, plans = bench("evidence_page"), bench("evidence_plans")
    write_run(tmp_path / "seed-1", 1, DICE)
    texts = []
    for whole in ("mutual", ""):
        experiment = replace(plans.EXPERIMENTS["parts"], whole=whole)
        page.write_page(tmp_path / "page.md", experiment, tmp_path, [1], "the command")
        texts.append((tmp_path / "page.md").read_text())

    table = texts[0].split("## Against the whole method\n")[1].split("##")[0].strip().splitlines()
    assert table[0] == "| arm | minus mutual [95 %] | p |"
    assert [row.split(" | ")[0] for row in table[2:]] == ["| fedavg"]
    assert "whole method" not in texts[1]


def test_the_page_lists_the_arms_of_all_runs(bench, tmp_path):
    """Also one that only the first seed has."""
    page, plans = bench("evidence_page"), bench("evidence_plans")
    write_run(tmp_path / "seed-1", 1, DICE)
    fewer = {"trainers": TRAINERS[:1], "device": "cpu", "epochs": 2}
    write_run(tmp_path / "seed-2", 2, {"alone": DICE["alone"]}, recipe=fewer)

    page.write_page(tmp_path / "page.md", plans.EXPERIMENTS["few"], tmp_path, [1, 2], "the command")

    text = (tmp_path / "page.md").read_text()
    assert [text.count(f"- `{words}`") for words in TRAINERS] == [1, 1, 1, 1]


def test_page_without_any_run(bench, tmp_path):
    """It says so, and is no error."""
    plans, page = bench("evidence_plans"), bench("evidence_page")

    page.write_page(tmp_path / "page.md", plans.EXPERIMENTS["partial"], tmp_path, [1], "the command")

    assert "Nothing has finished yet" in (tmp_path / "page.md").read_text()


def test_every_arm_can_be_read(bench):
    """The short names stand for arms of these names; reduced lists name no other."""
    plans = bench("evidence_plans")

    assert all(parse_arm(words).name == name for name, words in plans.ARMS.items())
    assert all(set(part.arms) <= set(plans.ARMS) for e in plans.EXPERIMENTS.values() for part in e.parts)


def test_one_call_per_arm_and_seed(bench, tmp_path, monkeypatch):
    """Partial: the arms asked for on the data without an organ, then the reference on all labels."""
    evidence = bench("evidence")
    calls = []
    monkeypatch.setattr(bench("evidence_plans"), "write_dataset", fake_dataset)
    monkeypatch.setattr(
        evidence.subprocess,
        "run",
        lambda words, check: calls.append(words) or type("R", (), {"returncode": 3}),
    )
    words = ["partial", "--arms", "mutual", "--seeds", "4", "--epochs", "2"]

    code = evidence.main([*words, "--out", str(tmp_path), "--page", str(tmp_path / "pages")])

    assert code == 1
    assert [call[call.index("--arm") + 1] for call in calls] == [
        "mutual=nnUNetTrainerGML,merge=none",
        "individual=nnUNetTrainer",
    ]
    outs = [Path(call[call.index("--out") + 1]).name for call in calls]
    assert outs == ["seed-4", "seed-4-all-labels"]
    assert "north=parotids" in calls[0]
    assert "--unlabelled" not in calls[1]
    assert all(call[-3:] == ["--epochs", "2", "--continue"] for call in calls)


def fake_dataset(folder, number, site, seed, training_cases, test_cases):
    """A raw dataset without any image."""
    made = folder / f"Dataset{number}_{site}"
    made.mkdir(parents=True)
    return made
