"""Plan together, step by step: counts, summaries, the pooled fingerprint, stock planning, comparison.

Each call of `Pool.advance` does what can be done now and returns what is still waited for, so it can be
called again and again, today and next week.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nnunet_gml.planning.asking import ask_all, come_and_missing, own_document, publish_once
from nnunet_gml.planning.fingerprint import count_cases, summarise
from nnunet_gml.planning.plan_documents import (
    all_peers_plans,
    digest_of,
    own_contract,
    publish_plans,
    read_plans,
    told,
)
from nnunet_gml.planning.planned import (
    FINGERPRINT,
    Planned,
    dataset_name,
    folder_of,
    planned,
    put_file,
    raw_description,
)
from nnunet_gml.planning.plans import by_name, channel_names, contract_differences, contract_digest
from nnunet_gml.planning.pooling import MOST_CASES, Summary, pool, read_summary
from nnunet_gml.planning.stock import dataset_id, run_stock
from nnunet_gml.versions import installed_versions
from peer_sync import documents
from peer_sync.documents import Document
from peer_sync.errors import ConfigError, RejectedError, quoted
from peer_sync.site import Site

AGREED = ("channel_names", "planner", "gpu_memory_target_gb", "nnunetv2")
"""What every site states beside its number of cases: it has to be equal, or the plans will not be."""
KIND = "fingerprint"
LOG = "nnunet_gml_plan.log"


@dataclass(frozen=True)
class Wishes:
    """How to plan; equal at all sites but for the last three.

    Attributes:
        configuration: the one that is meant, such as ``3d_fullres``.
        planner: name of nnU-Net's planner.
        gpu_memory_target_gb: as nnU-Net's option; None is its default.
        plans_name: the plans identifier.
        least: cases in a bin of our summary, at least.
        processes: cases that are read at the same time.
    """

    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    gpu_memory_target_gb: float | None = None
    plans_name: str = "nnUNetPlans"
    least: int = 5
    processes: int = 2


class Pool:
    """One site's part in planning together.

    Args:
        site: ours.
        dataset: nnU-Net's name or number of our dataset.
        wishes: how to plan.
        say: is told what was done.
        step: is told the number of our cases, after each that was read.

    Raises:
        ConfigError: the dataset is not there.
    """

    def __init__(
        self,
        site: Site,
        dataset: str,
        wishes: Wishes,
        say: Callable[[str], None],
        step: Callable[[int], None] = lambda cases: None,
    ) -> None:
        self.site = site
        self.wishes = wishes
        self.dataset = dataset_name(dataset)
        self.raw = folder_of("nnUNet_raw") / self.dataset
        self.folder = folder_of("nnUNet_preprocessed") / self.dataset
        self.dataset_id = dataset_id(self.dataset)
        self.digest = ""
        self._say = say
        self._step = step

    def advance(self, again: bool = False) -> list[str]:
        """Do what can be done; returns what is waited for, nothing when the plans of all agree.

        Args:
            again: make our summary anew, for example after a label was mended.

        Raises:
            ConfigError: something here is wrong, or the sites do not plan alike.
            RejectedError: a peer's document breaks a rule.
            TransportError: our relay cannot be reached.
        """
        counts, waiting = self._counts()
        if waiting:
            return waiting
        summaries, waiting = self._summaries(counts, again)
        if waiting:
            return waiting
        return self._plans(pool(summaries))

    def _counts(self) -> tuple[dict[str, int], list[str]]:
        """Step 1: how many cases every site has."""
        ours = self._own_count()
        if publish_once(self.site, "counts", ours):
            self._say(f"told the others our number of cases, {ours['cases']}")
        peers, waiting = come_and_missing("counts", ask_all(self.site, "counts", _read_count))
        for peer, theirs in peers.items():
            for name in AGREED:
                if ours[name] != theirs[name]:
                    raise ConfigError(
                        f"{name} is {ours[name]!r} at {self.site.name}, {quoted(theirs[name])} at {peer}",
                        hint="all sites plan alike: the same channels, options and version of nnU-Net",
                    )
        counts = {self.site.name: ours["cases"], **{peer: found["cases"] for peer, found in peers.items()}}
        return dict(sorted(counts.items())), waiting

    def _own_count(self) -> dict[str, Any]:
        return {
            "cases": count_cases(self.raw),
            "channel_names": channel_names(raw_description(self.raw)),
            "planner": self.wishes.planner,
            "gpu_memory_target_gb": self.wishes.gpu_memory_target_gb,
            "nnunetv2": installed_versions()["nnunetv2"],
        }

    def _summaries(self, counts: Mapping[str, int], again: bool) -> tuple[list[Summary], list[str]]:
        """Step 2: the summaries of all sites, made for these numbers of cases."""
        own = own_document(self.site, KIND)
        if again or own is None or own.content.get("counts") != counts:
            own = self._summarise(counts)
        else:
            documents.copy_to_relay(self.site)
        peers, waiting = come_and_missing(KIND, ask_all(self.site, KIND, read_summary))
        waiting += [
            f"{KIND} of site {peer}: made for {_listed(found.counts)}, and now it is {_listed(counts)} cases"
            for peer, found in peers.items()
            if found.counts != counts
        ]
        summary = read_summary(own)
        for peer, found in peers.items():
            if len(found.channels) != len(summary.channels):
                raise RejectedError(
                    "document",
                    f"document {KIND} of site {peer!r}: expected {len(summary.channels)} channels, as here, "
                    f"found {len(found.channels)}",
                    hint="every image needs the channels that dataset.json names",
                )
        return [summary, *peers.values()], waiting

    def _summarise(self, counts: Mapping[str, int]) -> Document:
        total, ours = sum(counts.values()), counts[self.site.name]
        wishes = self.wishes
        summary = summarise(self.raw, total, wishes.least, wishes.processes, lambda: self._step(ours))
        made = documents.publish(self.site, KIND, {"counts": dict(counts), **summary})
        self._say(f"told the others a summary of our images, for {total} cases in all")
        return made

    def _plans(self, fingerprint: dict[str, Any]) -> list[str]:
        """Step 3: plan from the pooled fingerprint, and compare with what the others have planned."""
        data = json.dumps(fingerprint, indent=4).encode() + b"\n"
        pooled = hashlib.sha256(data).hexdigest()
        ours = self._planned(data, pooled)
        contract = own_contract(self.site, ours)
        self.digest = contract_digest(contract)
        peers, waiting = come_and_missing("plans", all_peers_plans(self.site))
        for peer, theirs in peers.items():
            if theirs.pool != pooled:
                waiting.append(f"plans of site {peer}: not made from our pooled fingerprint")
            elif theirs.digest != self.digest:
                differences = told(contract_differences(contract, theirs.contract), self.site.name, peer)
                raise ConfigError(
                    f"sites {self.site.name} and {peer} have planned from the same fingerprint, but differ: "
                    f"{differences or 'one digest is by name, one by number'}",
                    hint="equal labels and channels in dataset.json, and the same configuration?",
                )
        return waiting

    def _planned(self, data: bytes, pooled: str) -> Planned:
        """Our plans; made now unless they were made from this fingerprint and not changed since."""
        found = own_document(self.site, "plans")
        if found is not None:
            with suppress(ConfigError, RejectedError):
                ours, before = self._find(), read_plans(found, by_name(self.site))
                if (before.pool, before.digest) == (pooled, digest_of(self.site, ours)):
                    documents.copy_to_relay(self.site)
                    return ours
        self._plan(data)
        ours = self._find()
        digest = publish_plans(self.site, ours, pooled)
        self._say(f"planned from the pooled fingerprint; plans digest {digest}")
        return ours

    def _plan(self, data: bytes) -> None:
        put_file(self.folder / FINGERPRINT, data)
        wishes = self.wishes
        words = [
            "-d",
            self.dataset_id,
            "-pl",
            wishes.planner,
            "-overwrite_plans_name",
            wishes.plans_name,
        ]
        if wishes.gpu_memory_target_gb is not None:
            words += ["-gpu_memory_target", str(wishes.gpu_memory_target_gb)]
        run_stock("nnUNetv2_plan_experiment", *words, log=self.folder / LOG)

    def _find(self) -> Planned:
        return planned(self.dataset, self.wishes.configuration, self.wishes.plans_name)


def _read_count(document: Document) -> dict[str, Any]:
    """Check a ``counts`` document. Raises `RejectedError`."""
    content = document.content
    cases = content.get("cases")
    if content.keys() != {"cases", *AGREED} or type(cases) is not int or not 0 < cases <= MOST_CASES:
        raise RejectedError(
            "document",
            f"document counts of site {document.site!r}: expected cases, {', '.join(AGREED)}, "
            f"found {quoted(content)}",
            hint="the same version of nnunet-gml at all sites?",
        )
    return content


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{quoted(site)} {number}" for site, number in counts.items())
