"""Planning together step by step: what each call does, what it waits for, and when it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from courier_kit import build_sites
from nnunet_kit import folders, plans_of, use_folders
from plans_kit import describe, gml, write_raw

from nnunet_gml.planning import fingerprint, pool_steps
from nnunet_gml.planning.pool_steps import Pool, Wishes
from peer_sync.errors import ConfigError, RejectedError
from peer_sync.site import load_site

DATASET = "Dataset601_here"


class Party:
    """One site with a dataset and folders of its own, in this process."""

    def __init__(self, folder: Path, site, monkeypatch, plans: dict, mean: float) -> None:
        self.folder, self.site, self.monkeypatch, self.plans = folder, site, monkeypatch, plans
        self.raw = write_raw(folder / "nnUNet_raw", DATASET, [mean] * 5)
        self.said: list[str] = []
        self.planned = 0

    def advance(self, again: bool = False, **wishes) -> list[str]:
        """One call of the command."""
        use_folders(self.folder, self.monkeypatch)
        self.monkeypatch.setattr(pool_steps, "run_stock", self.plan)
        self.pool = Pool(self.site, DATASET, Wishes(**{"processes": 1, **wishes}), self.said.append)
        return self.pool.advance(again)

    def plan(self, name: str, *words: str, log: Path) -> None:
        """Instead of a minute of nnU-Net: plans that only take over the intensities."""
        assert name == "nnUNetv2_plan_experiment"
        self.planned += 1
        place = self.folder / "nnUNet_preprocessed" / DATASET
        found = json.loads((place / "dataset_fingerprint.json").read_text())
        key = "foreground_intensity_properties_per_channel"
        (place / "nnUNetPlans.json").write_text(json.dumps({**self.plans, key: found[key]}))
        (place / "dataset.json").write_text((self.raw / "dataset.json").read_text())


@pytest.fixture
def parties(tmp_path, monkeypatch, phantom_data) -> tuple[Party, Party]:
    """North and south; nothing was done yet."""
    monkeypatch.setattr(fingerprint, "ALL_SAMPLES", 1e4)
    plans, _ = plans_of(phantom_data())
    sites = build_sites(tmp_path)
    north, south = (
        Party(tmp_path / f"nnunet_{name}", sites[name], monkeypatch, plans, mean)
        for name, mean in (("north", 0.0), ("south", 60.0))
    )
    return north, south


def test_step_by_step_to_equal_plans(parties):
    """Counts, summaries, plans, comparison; each call says what it waits for; in the end all agree."""
    north, south = parties

    assert north.advance() == ["counts of site south: not published yet"]
    assert south.advance() == ["fingerprint of site north: not published yet"]
    assert north.advance() == ["plans of site south: not published yet"]
    assert south.advance() == []
    assert north.advance() == []
    assert north.pool.digest == south.pool.digest
    assert (north.planned, south.planned) == (1, 1)
    fingerprints = [
        (party.folder / "nnUNet_preprocessed" / DATASET / "dataset_fingerprint.json").read_bytes()
        for party in parties
    ]
    assert fingerprints[0] == fingerprints[1]


def finish(north: Party, south: Party) -> None:
    for party in (north, south, north, south, north):
        party.advance()


def test_another_call_does_nothing_again(parties):
    """Everything is there: nothing is read, planned or published anew."""
    north, south = parties
    finish(north, south)
    north.said.clear()
    before = (north.site.folder / "outbox" / "plans.document").read_bytes()

    assert north.advance() == []

    assert (north.said, north.planned) == ([], 1)
    assert (north.site.folder / "outbox" / "plans.document").read_bytes() == before


def test_a_new_case_somewhere_begins_anew(parties):
    """The number of all cases counts for every summary: an old one is waited out, not used."""
    north, south = parties
    finish(north, south)
    write_raw(south.folder / "nnUNet_raw", DATASET, [60.0] * 6)
    south.advance()

    assert north.advance() == ["plans of site south: not made from our pooled fingerprint"]
    assert south.advance() == []
    assert north.advance() == []
    assert north.pool.digest == south.pool.digest


def test_a_summary_for_other_counts_is_named(parties):
    """Who has to run the command again, and why."""
    north, south = parties
    finish(north, south)
    write_raw(north.folder / "nnUNet_raw", DATASET, [0.0] * 6)

    (waiting,) = north.advance()

    assert waiting == (
        "fingerprint of site south: made for 'north' 5, 'south' 5, and now it is 'north' 6, 'south' 5 cases"
    )


def test_images_are_read_again_on_demand(parties):
    """A label was mended, and no number of cases changed."""
    north, south = parties
    finish(north, south)
    before = north.pool.digest
    write_raw(north.folder / "nnUNet_raw", DATASET, [10.0] * 5)

    north.advance(again=True)

    assert north.pool.digest != before


def test_other_channels_are_told_at_once(parties):
    """Before anybody reads an image: both names, both sites."""
    north, south = parties
    describe(south.raw, 5, channel="MRI")
    south.advance()

    with pytest.raises(ConfigError, match=r"channel_names is .*'CT'.* at north, .*MRI.* at south"):
        north.advance()


def test_another_planner_is_told_at_once(parties):
    """An option of nnU-Net's that has to be equal everywhere."""
    north, south = parties
    south.advance(planner="nnUNetPlannerResEncM")

    with pytest.raises(ConfigError, match="planner is 'ExperimentPlanner' at north"):
        north.advance()


def test_other_labels_are_told_at_the_end(parties):
    """The same fingerprint, another dataset.json: field, values and sites."""
    north, south = parties
    describe(south.raw, 5, labels={"background": 0, "Blob": 1})
    for party in (north, south, north):
        party.advance()

    with pytest.raises(ConfigError, match=r"labels\.Blob: '1' at south, 'None' at north"):
        south.advance()


def test_a_count_that_is_none_is_refused(parties):
    """From a site with a good key."""
    north, south = parties
    south.advance()
    content = pool_steps.documents.collect(south.site, "south", "counts").content
    pool_steps.documents.publish(south.site, "counts", {**content, "cases": -5})

    with pytest.raises(RejectedError, match="document counts of site 'south'"):
        north.advance()


def test_a_summary_of_other_channels_than_ours_is_refused(parties):
    """Whatever its site said about channels before."""
    north, south = parties
    for party in (north, south, north):
        party.advance()
    content = pool_steps.documents.collect(north.site, "north", "fingerprint").content
    more = {**content, "channels": content["channels"] * 2}
    pool_steps.documents.publish(south.site, "fingerprint", more)

    with pytest.raises(RejectedError, match="site 'south': expected 1 channels, as here, found 2"):
        north.advance()


def served_parties(tmp_path: Path) -> dict[str, tuple[Path, dict[str, str]]]:
    """Site files and nnU-Net folders of two sites that talk SFTP."""
    sites = build_sites(tmp_path, served=True)
    found = {}
    for name, mean in (("north", 0.0), ("south", 60.0)):
        place = tmp_path / f"nnunet_{name}"
        write_raw(place / "nnUNet_raw", DATASET, [mean] * 5, shapes=[(32, 40, 36)])
        (place / "nnUNet_preprocessed").mkdir()
        found[name] = (sites[name].path, folders(place))
    return found


@pytest.mark.slow
def test_two_sites_pool_and_a_third_way_adopts(tmp_path):
    """Over SFTP, with stock nnU-Net: two commands side by side plan the same; then one adopts the other's."""
    parties = served_parties(tmp_path)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "nnunet_gml.cli", "plans", "pool", str(site), "601", "--wait", "9m"],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for site, variables in parties.values()
    ]
    said = [process.communicate(timeout=540)[0] for process in running]

    assert [process.returncode for process in running] == [0, 0], said
    digests = {re.findall(r"planned the same; plans digest ([0-9a-f]{64})", text)[0] for text in said}
    assert len(digests) == 1

    change_patch(parties["south"][1])
    offered = serve_and_adopt(parties)
    assert "configuration.patch_size" in offered
    assert "in place" in offered


def change_patch(variables: dict[str, str]) -> None:
    """South plans otherwise from now on."""
    place = Path(variables["nnUNet_preprocessed"]) / DATASET / "nnUNetPlans.json"
    plans = json.loads(place.read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    place.write_text(json.dumps(plans))


def serve_and_adopt(parties) -> str:
    """South offers, north adopts; what north was told."""
    (south, south_folders), (north, north_folders) = parties["south"], parties["north"]
    offered = gml(south_folders, "plans", "offer", str(south), "601", "3d_fullres")
    assert offered.returncode == 0, offered.stderr
    with pool_steps.documents.served(load_site(south)):
        compared = gml(north_folders, "plans", "compare", str(north), "601", "3d_fullres")
        adopted = gml(north_folders, "plans", "adopt", str(north), "601", "--from", "south", "-np", "1")
    assert compared.returncode == 1 and "south: differs" in compared.stdout, compared.stderr
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    digest = re.findall(r"digest ([0-9a-f]{64})", offered.stdout)[0]
    assert f"plans digest {digest}" in adopted.stdout
    place = Path(north_folders["nnUNet_preprocessed"]) / DATASET
    assert json.loads((place / "nnUNetPlans.json").read_text())["dataset_name"] == DATASET
    assert list((place / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    return adopted.stdout
