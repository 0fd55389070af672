"""The document ``plans``: one site's plans as others may read, compare and adopt them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_gml.planning.asking import ask_all
from nnunet_gml.planning.foreign_plans import PlansError, check_dataset, check_plans
from nnunet_gml.planning.planned import Planned
from nnunet_gml.planning.plans import (
    FieldDifference,
    OtherPlansError,
    by_name,
    channel_names,
    check_agreement,
    contract_differences,
    contract_digest,
    contract_of,
)
from peer_sync import documents
from peer_sync.documents import Document
from peer_sync.errors import ConfigError, PeerSyncError, RejectedError, quoted
from peer_sync.names import DIGEST
from peer_sync.site import Site

KIND = "plans"
FIELDS = {"configuration", "plans", "dataset", "digest", "pool"}
NOT_SHOWN = ("dataset_name",)
"""Fields of a plans file that are a site's own."""
MOST_TOLD = 5


@dataclass(frozen=True)
class PeerPlans:
    """What a site has published, checked.

    Attributes:
        site: who.
        configuration: the one that is meant; the plans have it.
        plans: nnU-Net's plans, without a dataset's name.
        dataset: ``labels``, ``channel_names`` and ``regions_class_order`` of its dataset.json.
        contract: what has to agree, see `nnunet_gml.planning.plans.contract_of`.
        digest: the plans digest, as the site computed it.
        pool: SHA-256 of the pooled fingerprint that the plans were made from; else empty.
    """

    site: str
    configuration: str
    plans: dict[str, Any]
    dataset: dict[str, Any]
    contract: dict[str, Any]
    digest: str
    pool: str


def own_contract(site: Site, planned: Planned) -> dict[str, Any]:
    """What has to agree of our plans, as this federation compares it; see `contract_of`."""
    return contract_of(planned.plans, planned.dataset_json, planned.configuration, by_name(site))


def digest_of(site: Site, planned: Planned) -> str:
    """The plans digest as this federation computes it."""
    return contract_digest(own_contract(site, planned))


def publish_plans(site: Site, planned: Planned, pool: str = "") -> str:
    """Publish our plans for others to compare and adopt; returns their digest.

    Args:
        site: whose.
        planned: the dataset's plans, and the configuration that is meant.
        pool: SHA-256 of the pooled fingerprint they were made from.

    Raises:
        ConfigError: peers would not accept these plans; or as `peer_sync.documents.publish`.
        TransportError: as that.
    """
    digest = digest_of(site, planned)
    content = {
        "configuration": planned.configuration,
        "plans": {name: value for name, value in planned.plans.items() if name not in NOT_SHOWN},
        "dataset": shown_dataset(planned.dataset_json),
        "digest": digest,
        "pool": pool,
    }
    try:
        check_plans(content["plans"])
        check_dataset(content["dataset"])
    except PlansError as error:
        raise ConfigError(
            f"no peer would take these plans: {error}",
            hint="only what nnU-Net itself plans can be offered; send other files by hand",
        ) from error
    documents.publish(site, KIND, content)
    return digest


def shown_dataset(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a dataset.json that others see."""
    return {
        "labels": dataset_json["labels"],
        "channel_names": channel_names(dataset_json),
        "regions_class_order": dataset_json.get("regions_class_order"),
    }


def peer_plans(site: Site, peer: str) -> PeerPlans:
    """Fetch and check what ``peer`` has published. Raises as `peer_sync.documents.collect`."""
    return read_plans(documents.collect(site, peer, KIND), by_name(site))


def read_plans(document: Document, is_by_name: bool) -> PeerPlans:
    """Check a ``plans`` document's content. Raises `RejectedError`, rule ``document``."""
    content = document.content
    try:
        if content.keys() != FIELDS:
            raise PlansError(f"expected the fields {', '.join(sorted(FIELDS))}, found others")
        plans, dataset = check_plans(content["plans"]), check_dataset(content["dataset"])
        for name, is_empty_good in (("digest", False), ("pool", True)):
            value = content[name]
            if not isinstance(value, str) or not (DIGEST.fullmatch(value) or (is_empty_good and not value)):
                raise PlansError(f"{name}: expected 64 hex digits, found {quoted(value)}")
        contract = contract_of(plans, dataset, content["configuration"], is_by_name)
    except (PlansError, PeerSyncError, *UNFINISHED) as error:
        raise RejectedError(
            "document", f"document plans of site {document.site!r}: {_sentence(error)}"
        ) from error
    return PeerPlans(document.site, contract=contract, **content)


UNFINISHED = (KeyError, TypeError, AttributeError, RuntimeError, ValueError)
"""What nnU-Net raises where a configuration inherits in a circle, or from none."""


def _sentence(error: Exception) -> str:
    if isinstance(error, (PlansError, PeerSyncError)):
        return str(error)
    return f"expected plans that nnU-Net can read, found {type(error).__name__} {quoted(error)}"


def all_peers_plans(site: Site, peers: Sequence[str] | None = None) -> dict[str, PeerPlans | PeerSyncError]:
    """What each peer has published, or why that is not known; None asks all peers."""
    return ask_all(site, KIND, lambda document: read_plans(document, by_name(site)), peers)


def told(differences: Iterable[FieldDifference], site: str, peer: str) -> str:
    """The first differences as one phrase."""
    found = [difference.told(site, peer) for difference in differences]
    more = len(found) - MOST_TOLD
    return "; ".join(found[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")


def difference_from(site: Site, contract: Mapping[str, Any], peer: str) -> str:
    """A sentence on where the plans that a peer has published differ from ours; never raises."""
    found = all_peers_plans(site, [peer])[peer]
    if not isinstance(found, PeerPlans):
        return f"in what the plans of site {peer} differ is not known: {found}"
    differences = contract_differences(contract, found.contract)
    if not differences:
        return f"the plans that site {peer} has published are ours, so it trains others, or does so no longer"
    return f"the plans of site {peer} differ from ours in {told(differences, site.name, peer)}"


def agree(site: Site, plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str) -> str:
    """As `nnunet_gml.planning.plans.check_agreement`; an error names the fields that differ from a peer's.

    That peer is one that has published plans with the agreed digest. Raises as that.
    """
    try:
        return check_agreement(site, plans, dataset_json, configuration)
    except OtherPlansError as error:
        if site.courier == "agent":
            raise
        contract = contract_of(plans, dataset_json, configuration, by_name(site))
        for peer, found in all_peers_plans(site).items():
            if isinstance(found, PeerPlans) and found.digest == site.federation.plans_digest:
                differences = told(contract_differences(contract, found.contract), site.name, peer)
                raise OtherPlansError(f"{error}. They differ in {differences}", error.hint) from error
        raise
