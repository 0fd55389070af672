"""Whether this site fits the others: software, plans, labels; as far as they have published theirs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from nnunet_gml.planning.asking import ask_all, publish_once
from nnunet_gml.planning.labels import Difference, compare
from nnunet_gml.planning.plan_documents import PeerPlans, digest_of, own_contract, told
from nnunet_gml.planning.planned import Planned
from nnunet_gml.planning.plans import by_name, class_names, contract_differences
from nnunet_gml.planning.spelling import likely_pairs
from nnunet_gml.versions import installed_versions
from peer_sync import names
from peer_sync.ages import age_words
from peer_sync.checks import way_to_agree
from peer_sync.doctor.findings import FAILED, OK, UNKNOWN, WARNING, Result
from peer_sync.doctor.offers import MAX_SKEW
from peer_sync.documents import Document
from peer_sync.errors import ConfigError, NotFoundError, PeerSyncError, RejectedError, TransportError, quoted
from peer_sync.manifest import MAX_NUMBER
from peer_sync.site import Site

KIND = "about"
VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,40}")
MUST_EQUAL = ("nnunet-gml", "nnunetv2")
SHOWN = 5


def check_versions(site: Site, publishes: bool = True) -> Result:
    """What is installed here; the others are told, unless there is no network."""
    versions = installed_versions()
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not publishes:
        return Result(OK, found)
    try:
        publish_once(site, KIND, {**versions, "federation": _federation_of(site)})
    except (ConfigError, TransportError) as error:
        return Result(WARNING, f"{found}; not published: {error}", advice=f"Please {error.hint}.")
    return Result(OK, f"{found}; published")


def all_versions(site: Site) -> dict[str, Document | PeerSyncError]:
    """What each peer has installed, as it told, or why that is not known."""
    return ask_all(site, KIND, _checked_versions)


def compare_versions(peer: str, theirs: Document | PeerSyncError) -> Result:
    """The plugin and nnU-Net should be the same everywhere; torch and Python need not."""
    if isinstance(theirs, PeerSyncError):
        return _not_known(theirs, "nnunet-gml check")
    ours = installed_versions()
    versions = {name: theirs.content[name] for name in ours}
    other = [name for name in MUST_EQUAL if versions[name] != ours[name]]
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not other:
        return Result(OK, found)
    expected = ", ".join(f"{name} {ours[name]}" for name in other)
    advice = (
        f"Site {peer} and we use different versions of {' and '.join(other)}. Please install the same at "
        "every site before a training that counts; constraints.txt has the versions that were tested."
    )
    return Result(WARNING, found, f"{expected}, as here", advice)


def compare_federation(site: Site, peer: str, theirs: Document | PeerSyncError) -> Result:
    """Sites with different federation files take nothing from each other."""
    if isinstance(theirs, PeerSyncError):
        return _not_known(theirs, "nnunet-gml check")
    ours, found = _federation_of(site), theirs.content["federation"]
    told, expected = (f"version {it['version']}, {it['digest'][:16]}..." for it in (found, ours))
    if found == ours:
        return Result(OK, told)
    advice = f"{way_to_agree(ours['version'], found['version'], peer)}."
    return Result(WARNING, told, f"{expected}, as here", advice[0].upper() + advice[1:])


def compare_clocks(peer: str, theirs: Document | PeerSyncError) -> Result:
    """What was signed later than now was signed by another clock; one that is behind does not show here."""
    if isinstance(theirs, PeerSyncError):
        return _not_known(theirs, "nnunet-gml check")
    now = datetime.now(UTC)
    if theirs.created - now <= MAX_SKEW:
        return Result(OK, "not ahead of ours")
    words = f"at least {age_words(theirs.created - now)} ahead of ours"
    advice = (
        f"Site {peer} has signed its versions at {theirs.created:%Y-%m-%d %H:%M:%S} UTC, and here it is "
        f"{now:%Y-%m-%d %H:%M:%S} UTC. Please compare both machines with a time server (NTP): of two clocks "
        "that differ, offers look stale or expired."
    )
    return Result(WARNING, words, f"apart by less than {age_words(MAX_SKEW)}", advice)


def check_digest(site: Site, plan: Planned) -> Result:
    """Our plans against what the federation has agreed on."""
    try:
        ours, agreed = digest_of(site, plan), site.federation.plans_digest
    except ConfigError as error:
        return Result(FAILED, str(error), advice=f"Please {error.hint}.")
    if ours == agreed:
        return Result(OK, f"{ours[:16]}..., as agreed")
    if not agreed:
        advice = (
            "The federation has not agreed on plans yet. Please compare the digest with the other sites, and "
            f"write it into federation.toml: nnunet-gml federation agree FILE --plans-digest {ours}"
        )
        return Result(WARNING, f"{ours[:16]}..., nothing agreed", "a plans_digest", advice)
    advice = (
        f"This training would stop at once: its plans digest is {ours}, federation {site.federation.name} "
        f"expects {agreed}. Please adopt the agreed plans: nnunet-gml plans adopt --help."
    )
    return Result(FAILED, f"{ours[:16]}...", f"{agreed[:16]}...", advice)


def compare_plans(site: Site, plan: Planned, peer: str, theirs: PeerPlans | PeerSyncError) -> Result:
    """Our plans against those that a peer has published."""
    if isinstance(theirs, PeerSyncError):
        return _not_known(theirs, "nnunet-gml plans offer")
    if theirs.configuration != plan.configuration:
        advice = (
            f"Sites that train different configurations refuse each other's weights. Please ask site {peer} "
            f"whether it is going to train {plan.configuration}, too."
        )
        return Result(WARNING, f"published for {quoted(theirs.configuration)}", plan.configuration, advice)
    try:
        ours = own_contract(site, plan)
    except ConfigError as error:
        return Result(FAILED, str(error), advice=f"Please {error.hint}.")
    differences = contract_differences(ours, theirs.contract)
    if not differences:
        return Result(OK, "equal to ours")
    advice = (
        f"Sites {site.name} and {peer} cannot learn from each other: {told(differences, site.name, peer)}. "
        f"Please adopt one site's plans at both: nnunet-gml plans adopt --help."
    )
    fields = ", ".join(difference.field for difference in differences[:SHOWN])
    return Result(FAILED, f"differs in {fields}", "equal plans", advice)


def check_classes(site: Site, plan: Planned) -> Result:
    """Our class names against those that federation.toml lists, as ``classes`` or as our ``labelled``."""
    ours, classes = class_names(plan.dataset_json), site.federation.classes
    listed = classes if classes is not None else site.member.labelled or ()
    only_listed = [name for name in listed if name not in ours]
    only_ours = [name for name in ours if name not in listed]
    if not only_listed and not (classes and only_ours):
        return Result(OK, ", ".join(ours))
    pairs = likely_pairs(only_ours, only_listed)
    advice = [
        f"Is {quoted(own)} in our dataset.json the {quoted(other)} of federation.toml? Then please rename it "
        "in dataset.json (raw and preprocessed)."
        for own, other in pairs
    ]
    paired = {name for pair in pairs for name in pair}
    if missing := ", ".join(quoted(name) for name in only_listed if name not in paired):
        advice.append(f"Please add {missing} to labels in dataset.json; they need not occur in any case.")
    if classes and (more := ", ".join(quoted(name) for name in only_ours if name not in paired)):
        advice.append(f"Please agree with the others on {more}: nnunet-gml federation agree --classes.")
    found = f"dataset.json has {', '.join(ours)}"
    return Result(FAILED, found, f"the names in federation.toml: {', '.join(listed)}", " ".join(advice))


def compare_labels(site: Site, plan: Planned, peer: str, theirs: PeerPlans | PeerSyncError) -> Result:
    """Our labels against those that a peer has published with its plans."""
    if isinstance(theirs, PeerSyncError):
        return _not_known(theirs, "nnunet-gml plans offer")
    differences = compare(plan.dataset_json, theirs.dataset, site.name, peer, by_name(site))
    return _judge(differences, "fit ours")


def _judge(differences: list[Difference], good: str) -> Result:
    if not differences:
        return Result(OK, good)
    fatal = [difference for difference in differences if difference.is_fatal]
    found = "; ".join(difference.found for difference in differences)
    advice = " ".join(dict.fromkeys(difference.advice for difference in fatal))
    return Result(FAILED if fatal else OK, found, "the same names" if fatal else "", advice)


def _not_known(error: PeerSyncError, command: str) -> Result:
    if isinstance(error, NotFoundError):
        return Result(UNKNOWN, f"not published yet ({command} does it there)")
    if isinstance(error, TransportError):
        return Result(UNKNOWN, f"not reached: {error}")
    return Result(WARNING, str(error), advice=f"This was not believed. {error.hint}".strip())


def _checked_versions(document: Document) -> Document:
    """Nothing but versions, and which federation file. Raises `RejectedError`."""
    content, known = document.content, installed_versions().keys()
    is_good = (
        content.keys() == {*known, "federation"}
        and all(isinstance(content[name], str) and VERSION.fullmatch(content[name]) for name in known)
        and _is_federation(content["federation"])
    )
    if not is_good:
        raise RejectedError(
            "document",
            f"document about of site {document.site!r}: expected versions of {', '.join(known)}, "
            f"found {quoted(content)}",
            hint="is another version of this plugin used there?",
        )
    return document


def _federation_of(site: Site) -> dict[str, Any]:
    return {"version": site.federation.version, "digest": site.federation.digest}


def _is_federation(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"version", "digest"}
        and type(value["version"]) is int
        and 1 <= value["version"] <= MAX_NUMBER
        and isinstance(value["digest"], str)
        and names.DIGEST.fullmatch(value["digest"]) is not None
    )
