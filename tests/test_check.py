"""`nnunet-gml check`: what stands between a site and its next training, before a GPU hour is spent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from courier_kit import offer
from model_kit import plan_of
from nnunet_kit import CONFIGURATION, sites_for, use_folders

from nnunet_gml.cli import main
from nnunet_gml.installed import trainers_folder
from nnunet_gml.planning.plan_documents import all_peers_plans, publish_plans
from nnunet_gml.preflight import agreement, files, machine
from nnunet_gml.preflight.memory import Need
from nnunet_gml.preflight.pace import check_pace
from nnunet_gml.preflight.run import Training, verdict
from peer_sync import documents
from peer_sync.doctor.findings import FAILED, OK, OUTGOING, SELF, UNKNOWN, WARNING, Finding
from peer_sync.mailbox import Mailbox
from peer_sync.site import SITE_VARIABLE, load_site

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
GIB = 1 << 30

GOOD = {"nnunet-gml": "0.1", "nnunetv2": "2.8", "torch": "2.6", "python": "3.11"}
FILE = {"version": 1, "digest": "0" * 64}


@pytest.fixture
def data(phantom_data, tmp_path) -> Path:
    """The phantom's folders, to be damaged at will."""
    return Path(shutil.copytree(phantom_data(), tmp_path / "data"))


@pytest.fixture
def plan(data, tmp_path, monkeypatch):
    """What is going to be trained, in nnU-Net's folders."""
    use_folders(data, monkeypatch, results=tmp_path / "results")
    return plan_of(data)


@pytest.fixture
def pair(data, tmp_path):
    """North and south, agreed on the phantom's plans."""
    home = tmp_path / "home"
    home.mkdir()
    return sites_for(home, data)


def rename(plan, old: str, new: str, at: int | None = None):
    """The plan with a class called otherwise."""
    labels = {new if name == old else name: number for name, number in plan.dataset_json["labels"].items()}
    return replace(plan, dataset_json={**plan.dataset_json, "labels": labels})


class TestFiles:
    """nnU-Net's files."""

    def test_what_is_there_is_told(self, plan):
        """Network, cases and split."""
        assert "patch 16x24x24, batch 2" in files.check_plans(plan).found
        assert files.check_raw(plan).verdict == OK
        assert files.check_preprocessed(plan).found.startswith("4 cases")
        assert files.check_split(plan, "0").found == "fold 0: 3 cases for training, 1 for validation"
        assert files.check_split(plan, "all").verdict == OK

    def test_a_dataset_without_its_fingerprint_fails(self, plan):
        """nnU-Net's training copies it; a site that only adopted plans has none."""
        (plan.folder / "dataset_fingerprint.json").unlink()

        found = files.check_preprocessed(plan)

        assert found.verdict == FAILED and "nnUNetv2_extract_fingerprint" in found.advice

    def test_an_unpreprocessed_dataset_fails_with_the_command(self, plan):
        """And the checks behind it are spared."""
        for folder in plan.folder.glob("nnUNetPlans_*"):
            shutil.rmtree(folder)

        found = files.check_preprocessed(plan)

        assert found.verdict == FAILED and found.ends
        assert "nnUNetv2_preprocess -d Dataset901_north -c 3d_small -plans_name nnUNetPlans" in found.advice

    def test_a_case_that_was_left_out_is_named(self, plan):
        """A preprocessing that was killed."""
        for path in plan.folder.glob("nnUNetPlans_*/north_002*"):
            path.unlink()

        found = files.check_preprocessed(plan)

        assert found.verdict == FAILED and "1 of 4 cases are missing" in found.found
        assert "north_002" in found.found

    @pytest.mark.parametrize(
        ("split", "words"),
        [
            ('[{"train": ["north_000", "ghost"], "val": ["north_001"]}]', "1 not preprocessed"),
            ('[{"train": ["north_000"], "val": []}]', "1 + 0 cases"),
            ("[]", "no fold 0"),
            ("{}", "no fold 0"),
            ("nonsense", "no fold 0"),
        ],
    )
    def test_a_split_that_does_not_fit_fails(self, plan, split, words):
        """Unknown cases, no validation, no such fold, no JSON."""
        (plan.folder / "splits_final.json").write_text(split)

        found = files.check_split(plan, "0")

        assert found.verdict == FAILED and words in found.found

    def test_a_case_in_training_and_validation_is_a_warning(self, plan):
        """The validation would flatter."""
        split = '[{"train": ["north_000", "north_001"], "val": ["north_001"]}]'
        (plan.folder / "splits_final.json").write_text(split)

        assert files.check_split(plan, "0").verdict == WARNING

    def test_too_few_cases_for_folds_fail(self, plan):
        """Four cases, and nobody has written a split."""
        (plan.folder / "splits_final.json").unlink()

        assert "fold all" in files.check_split(plan, "0").advice

    def test_a_raw_dataset_json_that_was_edited_later_is_a_warning(self, plan, data):
        """People edit the raw one, training reads the preprocessed one."""
        raw = data / "nnUNet_raw" / plan.dataset / "dataset.json"
        raw.write_text(raw.read_text().replace("mandible", "Mandible"))

        found = files.check_raw(plan)

        assert found.verdict == WARNING and "labels differs" in found.found


class TestAgreement:
    """The other sites."""

    def test_versions_travel_as_a_signed_document(self, pair):
        """What north publishes, south reads."""
        assert agreement.check_versions(pair["north"]).verdict == OK

        theirs = agreement.all_versions(pair["south"])["north"]

        assert agreement.compare_versions("north", theirs).verdict == OK
        assert theirs.content["nnunetv2"].startswith("2.8")

    def test_another_version_of_nnunet_is_a_warning(self, pair):
        """With both versions."""
        agreement.check_versions(pair["north"])
        about = agreement.all_versions(pair["south"])["north"]
        theirs = replace(about, content={**about.content, "nnunetv2": "2.5", "torch": "2.6"})

        found = agreement.compare_versions("north", theirs)

        assert found.verdict == WARNING and "nnunetv2 2.5" in found.found
        assert "nnunetv2 2.8" in found.expected and "torch" not in found.expected

    @pytest.mark.parametrize(
        ("version", "digest", "verdict", "advice"),
        [
            (0, None, OK, ""),
            (1, "0" * 64, WARNING, "has a newer federation.toml"),
            (0, "0" * 64, WARNING, "files call themselves version"),
        ],
    )
    def test_another_federation_file_is_a_warning(self, pair, version, digest, verdict, advice):
        """Newer at the peer, or other bytes of the same version: who has to do what."""
        agreement.check_versions(pair["north"])
        about, ours = agreement.all_versions(pair["south"])["north"], pair["south"].federation
        federation = {"version": ours.version + version, "digest": digest or ours.digest}
        theirs = replace(about, content={**about.content, "federation": federation})

        found = agreement.compare_federation(pair["south"], "north", theirs)

        assert found.verdict == verdict and advice in found.advice

    @pytest.mark.parametrize(
        "content",
        [
            {**GOOD, "federation": {"version": True, "digest": "0" * 64}},
            {**GOOD, "federation": {"version": 1, "digest": "\x1b[31m"}},
            {**GOOD, "federation": 3},
            GOOD,
            {"torch": "2.6"},
            {
                "nnunet-gml": "0.1",
                "nnunetv2": "2.8",
                "torch": "\x1b[31m",
                "python": "3.11",
                "federation": FILE,
            },
            {"nnunet-gml": "0.1", "nnunetv2": "2.8", "torch": ["2.6"], "python": "3.11", "federation": FILE},
            {"nnunet-gml": "0.1", "nnunetv2": "2" * 41, "torch": "2.6", "python": "3.11", "federation": FILE},
        ],
    )
    def test_versions_that_are_none_are_not_believed(self, pair, content):
        """Missing, with terminal codes, of another type, too long; and so the federation's file."""
        documents.publish(pair["north"], "about", content)

        (found,) = agreement.all_versions(pair["south"]).values()

        result = agreement.compare_versions("north", found)
        assert result.verdict == WARNING and "\x1b" not in result.found

    def test_a_site_that_has_published_nothing_is_unknown(self, pair):
        """Not a failure: it may not have begun."""
        (found,) = agreement.all_versions(pair["south"]).values()

        assert agreement.compare_versions("north", found).verdict == UNKNOWN

    @pytest.mark.parametrize(("days", "verdict"), [(0, OK), (-1, OK), (1, WARNING)])
    def test_what_was_signed_tomorrow_was_signed_by_another_clock(self, pair, monkeypatch, days, verdict):
        """A day ahead shows; a day behind is as good as signed yesterday."""

        class Shifted(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(days=days)

        with monkeypatch.context() as patch:
            patch.setattr(documents, "datetime", Shifted)
            agreement.check_versions(pair["north"])

        found = agreement.compare_clocks("north", agreement.all_versions(pair["south"])["north"])

        assert found.verdict == verdict
        assert ("compare both machines with a time server" in found.advice) == (verdict == WARNING)

    def test_the_agreed_plans_are_recognised(self, pair, plan):
        """And others are not."""
        other = replace(plan, plans={**plan.plans, "transpose_forward": [2, 1, 0]})

        assert agreement.check_digest(pair["north"], plan).verdict == OK
        assert agreement.check_digest(pair["north"], other).verdict == FAILED

    def test_without_an_agreement_the_digest_is_told(self, pair, plan):
        """With the command that writes it down."""
        path = pair["north"].federation.path
        text = path.read_text()
        path.write_text(text.replace(pair["north"].federation.plans_digest, ""))

        found = agreement.check_digest(load_site(pair["north"].path), plan)

        assert found.verdict == WARNING and "federation agree FILE --plans-digest" in found.advice

    def test_equal_plans_and_labels_of_a_peer_are_recognised(self, pair, plan):
        """Through the peer's signed document."""
        publish_plans(pair["south"], plan)
        theirs = all_peers_plans(pair["north"])["south"]

        assert agreement.compare_plans(pair["north"], plan, "south", theirs).verdict == OK
        assert agreement.compare_labels(pair["north"], plan, "south", theirs).verdict == OK

    def test_a_peer_that_has_published_another_configuration_is_asked(self, pair, plan):
        """Its weights would be refused, but perhaps it only published others first."""
        publish_plans(pair["south"], replace(plan, configuration="3d_fullres"))
        theirs = all_peers_plans(pair["north"])["south"]

        found = agreement.compare_plans(pair["north"], plan, "south", theirs)

        assert found.verdict == WARNING and found.found == "published for '3d_fullres'"

    def test_other_plans_of_a_peer_are_named_field_by_field(self, pair, plan):
        """Both values, both sites."""
        publish_plans(pair["south"], replace(plan, plans={**plan.plans, "transpose_forward": [1, 0, 2]}))
        theirs = all_peers_plans(pair["north"])["south"]

        found = agreement.compare_plans(pair["north"], plan, "south", theirs)

        assert found.verdict == FAILED and found.found == "differs in transpose_forward"
        assert "'[0, 1, 2]' at north, '[1, 0, 2]' at south" in found.advice

    def test_a_misspelt_organ_at_a_peer_is_asked_about(self, pair, plan):
        """Both names, both sites, and the question."""
        publish_plans(pair["south"], rename(plan, "spinal-cord", "SpinalCord"))
        theirs = all_peers_plans(pair["north"])["south"]

        found = agreement.compare_labels(pair["north"], plan, "south", theirs)

        assert found.verdict == FAILED
        assert found.found == "north has 'spinal-cord', south has 'SpinalCord'"
        assert "Are 'spinal-cord' and 'SpinalCord' the same organ?" in found.advice

    def test_a_class_that_federation_toml_does_not_know_is_told(self, pair, plan):
        """With what it looks like."""
        federation = replace(pair["north"].federation, classes=tuple(plan.dataset_json["labels"])[1:])
        site = replace(pair["north"], federation=federation)

        assert agreement.check_classes(site, plan).verdict == OK
        found = agreement.check_classes(site, rename(plan, "mandible", "Mandibel"))

        assert found.verdict == FAILED and "'Mandibel' in our dataset.json the 'mandible'" in found.advice


class TestMachine:
    """Trainer, disk, GPU, pace."""

    NEED = Need(stock=8 * GIB, frozen=9 * GIB, low_memory=11 * GIB, mutual=15 * GIB)

    @pytest.mark.parametrize(
        ("gib", "expected", "words"),
        [
            (24, OK, ""),
            (12, WARNING, "low_memory = True"),
            (10, WARNING, "nnUNetTrainerGMLFrozen"),
            (8, WARNING, "does not fit beside ours"),
            (6, FAILED, "Even stock nnU-Net does not fit"),
        ],
    )
    def test_the_advice_names_what_fits(self, gib, expected, words):
        """Two networks, one after the other, a teacher, or none."""
        found = machine.check_gpu(self.NEED, "mutual", gib * GIB)

        assert found.verdict == expected and words in found.advice
        assert "one network needs about 8.0 GiB, with a peer 15.0 GiB (mutual)" in found.found

    def test_a_trainer_that_only_averages_needs_one_network(self, monkeypatch):
        """And nnU-Net's own look-up finds each of ours."""
        monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))

        ways = {
            name: machine.way_of(machine.find_trainer(f"nnUNetTrainer{name}"))
            for name in ("GML", "GMLFrozen", "FedAvg", "")
        }

        assert ways == {"GML": "mutual", "GMLFrozen": "frozen", "FedAvg": "stock", "": "stock"}

    def test_a_trainer_that_is_not_found_says_which_variable(self, monkeypatch):
        """The most likely reason."""
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)

        found = machine.check_trainer("nnUNetTrainerGML", machine.find_trainer("nnUNetTrainerGML"))

        assert found.verdict == FAILED and "nnUNet_extTrainer" in found.advice

    def test_a_full_disk_fails(self, pair, plan, monkeypatch):
        """Both places are looked at."""
        assert [result.verdict for _, result in machine.check_disks(pair["north"], plan)] == [OK, OK]
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))

        assert [result.verdict for _, result in machine.check_disks(pair["north"], plan)] == [FAILED] * 2

    @pytest.mark.slow
    def test_the_pace_comes_from_real_steps_and_leaves_nothing(self, plan, pair, tmp_path, monkeypatch):
        """Our trainer in a process of its own, without its site; no results folder is made."""
        monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
        monkeypatch.setenv(SITE_VARIABLE, str(pair["north"].path))
        before = sorted(plan.folder.rglob("*"))

        found = check_pace(plan, "nnUNetTrainerGML", "frozen", 1)

        assert found.verdict == OK, found
        assert "s an epoch" in found.found and "for 1000 epochs; epochs with a peer" in found.found
        assert not (tmp_path / "results").exists() and sorted(plan.folder.rglob("*")) == before

    @pytest.mark.slow
    def test_steps_that_fail_are_a_warning_with_the_last_words(self, plan, monkeypatch):
        """Such as a trainer that does not exist."""
        found = check_pace(plan, "nnUNetTrainerNone", "mutual", 1)

        assert found.verdict == WARNING and "nnUNetTrainerNone" in found.found


def way(peer: str, result: str) -> Finding:
    """A finding of the doctor about our way to a peer."""
    return Finding(peer, OUTGOING, "port", result, "", "", "")


@pytest.mark.parametrize(
    ("findings", "is_ready", "words"),
    [
        ([Finding("north", SELF, "split", FAILED, "", "", "")], False, "split"),
        ([Finding("south", SELF, "labels", FAILED, "", "", "")], False, "labels of south"),
        ([Finding("north", SELF, "GPU memory", WARNING, "", "", "")], True, "look at: GPU memory"),
        ([way("south", FAILED), way("east", OK)], True, "not reached: south"),
        ([way("south", FAILED), way("east", FAILED)], False, "no peer can be reached"),
        ([way("south", OK), way("east", OK)], True, "ready: "),
    ],
)
def test_the_verdict_is_one_line(pair, plan, findings, is_ready, words):
    """One peer that is away stops nobody; all of them away leaves nothing to learn from."""
    training = Training(pair["north"], plan, "0", "nnUNetTrainerGML", 0, asks_peers=True)

    found, line = verdict(training, findings)

    assert found is is_ready and words in line and "\n" not in line


@pytest.fixture
def command(pair, plan, monkeypatch, capsys):
    """Run `nnunet-gml check` at north for fold 0; returns exit code and stdout."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    monkeypatch.setenv(SITE_VARIABLE, str(pair["north"].path))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str, configuration: str = CONFIGURATION) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["check", "901", configuration, "0", "--no-steps", *words])
        return code, capsys.readouterr().out

    return call


def test_two_sites_that_fit_are_ready(command, pair, plan):
    """South has offered, and published plans and versions."""
    mailbox = Mailbox(pair["south"])
    offer(mailbox, plans_digest=pair["south"].federation.plans_digest)
    mailbox.close()
    publish_plans(pair["south"], plan)
    agreement.check_versions(pair["south"])

    code, said = command()

    assert code == 0, said
    assert said.splitlines()[-1].startswith("ready: Dataset901_north 3d_small fold 0 at north")


def test_what_is_wrong_is_in_the_last_line_and_in_the_exit_code(command, plan):
    """For people, and for scripts."""
    (plan.folder / "splits_final.json").write_text("[]")

    code, said = command("--offline")

    assert code == 1
    assert said.splitlines()[-1] == "not ready: Dataset901_north 3d_small fold 0 at north: split"


def test_json_holds_every_finding_and_the_verdict(command):
    """And nothing else is on stdout."""
    code, said = command("--offline", "--json")

    content = json.loads(said)
    assert code == 0 and content["ready"] and content["verdict"].startswith("ready: ")
    checks = {finding["check"] for finding in content["findings"]}
    assert {"plans", "split", "versions", "plans digest", "classes", "trainer", "GPU memory"} <= checks


def test_without_plans_the_command_stops_at_once(command, capsys):
    """Nothing else can be looked at."""
    code, _ = command(configuration="3d_none")

    assert code == 2


def test_without_a_federation_file_that_comes_first(command, pair, plan, capsys):
    """Who checks too early is led to the step that is missing, not to planning."""
    pair["north"].federation.path.unlink()
    (plan.folder / "nnUNetPlans.json").unlink()

    code = main(["check", "901", CONFIGURATION, "0", "--no-steps"])

    said = capsys.readouterr().err
    assert code == 2 and "federation.toml" in said and "nnunet-gml federation new" in said
