"""The document ``plans``: what others may read, compare and adopt, and how a difference is told."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from courier_kit import FACTS, build_sites, offer, wait_for
from nnunet_kit import CONFIGURATION, plans_of, sites_for
from torch import nn

from nnunet_gml.exchange import Comparisons, Exchange
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.planning.plan_documents import (
    PeerPlans,
    agree,
    all_peers_plans,
    difference_from,
    peer_plans,
    publish_plans,
)
from nnunet_gml.planning.planned import Planned
from nnunet_gml.planning.plans import OtherPlansError, contract_of, plans_digest
from peer_sync import documents
from peer_sync.errors import ConfigError, NotFoundError, RejectedError
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import parse
from peer_sync.site import load_site


@pytest.fixture
def ours(phantom_data) -> Planned:
    """The phantom's plans, as `nnunet_gml.planning.planned` finds them."""
    plans, dataset = copy.deepcopy(plans_of(phantom_data()))
    return Planned("Dataset901_north", Path(), "nnUNetPlans", plans, dataset, CONFIGURATION)


def other_patch(planned: Planned) -> Planned:
    """The same, with another patch size."""
    plans = copy.deepcopy(planned.plans)
    plans["configurations"][CONFIGURATION]["patch_size"] = [16, 16, 16]
    return replace(planned, plans=plans)


def test_published_plans_arrive_without_the_datasets_name(sites, ours):
    """Plans, labels and digest are read as they were written; the rest of dataset.json stays at home."""
    digest = publish_plans(sites["south"], ours, pool="c" * 64)

    found = peer_plans(sites["north"], "south")

    text = (sites["south"].folder / "outbox" / "plans.document").read_text()
    assert "Dataset901" not in text
    assert "description" not in text
    assert found.contract == contract_of(ours.plans, ours.dataset_json, CONFIGURATION)
    assert (found.digest, found.pool, found.configuration) == (digest, "c" * 64, CONFIGURATION)
    assert found.dataset["labels"] == ours.dataset_json["labels"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("pool"),
        lambda c: c.update(digest="x"),
        lambda c: c.update(pool=7),
        lambda c: c.update(configuration="3d_none"),
        lambda c: c.update(configuration=["3d_fullres"]),
        lambda c: c.update(plans=[]),
        lambda c: c["plans"]["configurations"][CONFIGURATION].update(inherits_from=CONFIGURATION),
        lambda c: c["plans"]["configurations"]["3d_fullres"].update(data_identifier="../../x"),
    ],
)
def test_plans_that_are_none_are_refused(sites, ours, change):
    """Signed by the right key, and yet never used."""
    publish_plans(sites["south"], ours)
    content = documents.collect(sites["north"], "south", "plans").content
    change(content)
    documents.publish(sites["south"], "plans", content)

    with pytest.raises(RejectedError, match="document plans of site 'south'") as error:
        peer_plans(sites["north"], "south")
    assert error.value.rule == "document"


def test_plans_with_code_of_ones_own_are_not_published(sites, ours):
    """No peer would take them: told here, at once."""
    ours.plans["configurations"]["3d_fullres"]["preprocessor_name"] = "my/Preprocessor"

    with pytest.raises(ConfigError, match="no peer would take these plans"):
        publish_plans(sites["south"], ours)


def test_one_silent_peer_hides_no_other(tmp_path, ours):
    """Each has an answer of its own."""
    sites = build_sites(tmp_path, ("north", "south", "west"))
    publish_plans(sites["west"], ours)

    found = all_peers_plans(sites["north"])

    assert isinstance(found["south"], NotFoundError)
    assert isinstance(found["west"], PeerPlans)


def test_a_training_with_other_plans_is_told_where_they_differ(tmp_path, phantom_data, ours):
    """Field, both values and both sites, from a peer that has published the agreed plans."""
    sites = sites_for(tmp_path, phantom_data())
    publish_plans(sites["south"], ours)
    mine = other_patch(ours)

    with pytest.raises(OtherPlansError) as error:
        agree(sites["north"], mine.plans, mine.dataset_json, CONFIGURATION)

    assert "configuration.patch_size: '[16, 16, 16]' at north, '[16, 24, 24]' at south" in str(error.value)


def test_nobody_is_asked_where_plans_agree(tmp_path, phantom_data, ours):
    """And the digest is the federation's."""
    north = sites_for(tmp_path, phantom_data())["north"]

    assert agree(north, ours.plans, ours.dataset_json, CONFIGURATION) == north.federation.plans_digest


def test_without_an_agreed_digest_the_own_one_is_used(tmp_path, phantom_data, ours):
    """A federation may train before it has agreed; peers with another digest are refused as ever."""
    sites = sites_for(tmp_path, phantom_data())
    path = sites["north"].federation.path
    digest = sites["north"].federation.plans_digest
    path.write_text(path.read_text().replace(f'plans_digest = "{digest}"', ""))
    north = load_site(sites["north"].path)

    assert agree(north, ours.plans, ours.dataset_json, CONFIGURATION) == digest


def test_a_refusal_for_plans_is_looked_into_once(sites):
    """Of the courier's refusals only that one, and in the background."""
    asked: list[str] = []
    found: SimpleQueue[str] = SimpleQueue()
    comparisons = Comparisons(lambda peer: asked.append(peer) or f"compared {peer}", found.put)

    for peer, rule in (("south", "plans"), ("south", "plans"), ("south", "schema"), ("west", "schema")):
        comparisons.look_at(peer, rule)

    assert (found.get(timeout=60), asked, found.empty()) == ("compared south", ["south"], True)


def test_how_a_peer_differs_is_a_sentence_in_any_case(sites, ours):
    """Published and different, the same after all, or not published."""
    contract = contract_of(ours.plans, ours.dataset_json, CONFIGURATION)
    unknown = difference_from(sites["north"], contract, "south")
    publish_plans(sites["south"], other_patch(ours))
    different = difference_from(sites["north"], contract, "south")
    publish_plans(sites["south"], ours)

    assert "is not known" in unknown
    assert "configuration.patch_size: '[16, 24, 24]' at north, '[16, 16, 16]' at south" in different
    assert "are ours" in difference_from(sites["north"], contract, "south")


def test_a_refused_peer_is_explained_in_the_log(sites):
    """From the courier's own refusal: both sites have agreed on nothing, and their plans differ."""
    network, said = nn.Conv3d(1, 2, 3), []
    compare = "compared {}".format
    mailbox = Mailbox(sites["south"])
    north = Exchange(sites["north"], network, said.append, None, "b" * 64, compare)
    offer(mailbox, schema_digest=north.schema_digest, plans_digest="c" * 64)
    try:
        north.start()
        facts = replace(FACTS, schema_digest=north.schema_digest, plans_digest="b" * 64)
        north.begin_round(network, facts, ("south",))
        wait_for(lambda: north.tell() or "compared south" in said)
    finally:
        north.stop()
        mailbox.close()

    assert any("rule plans" in sentence for sentence in said)


class EveryEpoch(GossipTrainer):
    warmup_epochs = 1
    epochs_per_round = 1
    mutual_epochs = 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_training_without_an_agreed_digest_offers_its_own(run, ours):
    """In the manifest stands what was computed here, so that peers can compare it with theirs."""
    trainer = run(EveryEpoch, epochs=2, federation=lambda text, _: re.sub("plans_digest = .*", "", text))

    (path,) = (trainer.own_site.folder / "outbox").glob("*.json")
    digest = plans_digest(ours.plans, ours.dataset_json, CONFIGURATION)
    assert trainer.own_site.federation.plans_digest == ""
    assert parse(path.read_bytes()).plans_digest == digest
