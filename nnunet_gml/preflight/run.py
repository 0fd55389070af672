"""All checks before a training, in the order in which a person would mend what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from nnunet_gml.planning.plan_documents import all_peers_plans
from nnunet_gml.planning.planned import Planned
from nnunet_gml.preflight import agreement, files, machine
from nnunet_gml.preflight.memory import estimate
from nnunet_gml.preflight.pace import check_pace
from peer_sync.doctor import examine
from peer_sync.doctor.findings import FAILED, OUTGOING, SELF, UNKNOWN, WARNING, Finding, Result
from peer_sync.site import Site


@dataclass(frozen=True)
class Training:
    """What is going to be trained.

    Attributes:
        site: where.
        plan: dataset, plans and configuration.
        fold: a number, or ``all``.
        trainer: name of the trainer's class.
        steps: real training steps from which the pace is told; 0 leaves that out.
        asks_peers: whether peers are asked; False on a machine without network.
    """

    site: Site
    plan: Planned
    fold: str
    trainer: str
    steps: int
    asks_peers: bool


@dataclass(frozen=True)
class Section:
    """Findings that belong together, under a title."""

    title: str
    findings: Sequence[Finding]


def sections(training: Training, tell: Callable[[str], None] = lambda _: None) -> Iterator[Section]:
    """Check, section by section.

    Args:
        training: what is going to be trained.
        tell: is told what is looked at next.
    """
    works = [("files", _files), ("agreement with the federation", _agreement), ("this machine", _machine)]
    if training.asks_peers:
        works.append(("ways to the peers", _ways))
    for title, work in works:
        tell(title)
        yield Section(title, work(training))


def verdict(training: Training, findings: Sequence[Finding]) -> tuple[bool, str]:
    """Whether the training can begin, and why, in one line.

    A peer that cannot be reached stops nobody; when none can be reached, nothing would be learnt from any.
    """
    what = (
        f"{training.plan.dataset} {training.plan.configuration} fold {training.fold} at {training.site.name}"
    )
    failed, warned = (_named(training.site.name, findings, kind) for kind in (FAILED, WARNING))
    asked = {f.peer for f in findings if f.direction == OUTGOING}
    lost = {f.peer for f in findings if f.direction == OUTGOING and f.verdict == FAILED}
    if lost and lost == asked:
        failed.append("no peer can be reached")
    elif lost:
        warned.append(f"not reached: {', '.join(sorted(lost))}")
    if failed:
        return False, f"not ready: {what}: {', '.join(failed)}"
    return True, f"ready: {what}" + (f"; look at: {', '.join(warned)}" if warned else "")


def as_json(training: Training, found: Sequence[Section]) -> dict[str, object]:
    """The same for a program."""
    is_ready, line = verdict(training, [finding for section in found for finding in section.findings])
    rows = [{"section": s.title, **asdict(finding)} for s in found for finding in s.findings]
    return {"ready": is_ready, "verdict": line, "findings": rows}


def _files(training: Training) -> list[Finding]:
    plan = training.plan
    results = {"raw data": files.check_raw(plan), "plans": files.check_plans(plan)}
    results["preprocessed"] = files.check_preprocessed(plan)
    if not results["preprocessed"].ends:
        results["split"] = files.check_split(plan, training.fold)
    return [_finding(training.site.name, name, result) for name, result in results.items()]


def _agreement(training: Training) -> list[Finding]:
    site, plan = training.site, training.plan
    findings = [
        _finding(site.name, "versions", agreement.check_versions(site, training.asks_peers)),
        _finding(site.name, "plans digest", agreement.check_digest(site, plan)),
        _finding(site.name, "classes", agreement.check_classes(site, plan)),
    ]
    if not training.asks_peers:
        return findings
    plans, versions = all_peers_plans(site), agreement.all_versions(site)
    for peer in site.federation.peers_of(site.name):
        results = {
            "versions": agreement.compare_versions(peer, versions[peer]),
            "federation": agreement.compare_federation(site, peer, versions[peer]),
            "clock": agreement.compare_clocks(peer, versions[peer]),
            "plans": agreement.compare_plans(site, plan, peer, plans[peer]),
            "labels": agreement.compare_labels(site, plan, peer, plans[peer]),
        }
        findings += [_finding(peer, name, result) for name, result in results.items()]
    return findings


def _machine(training: Training) -> list[Finding]:
    site, plan = training.site, training.plan
    trainer = machine.find_trainer(training.trainer)
    way = machine.way_of(trainer)
    results = [
        ("trainer", machine.check_trainer(training.trainer, trainer)),
        *machine.check_disks(site, plan),
        ("GPU memory", _memory(plan, way)),
    ]
    if training.steps and trainer is not None and files.preprocessed_cases(plan):
        results.append(("pace", check_pace(plan, training.trainer, way, training.steps)))
    return [_finding(site.name, name, result) for name, result in results]


def _memory(plan: Planned, way: str) -> Result:
    try:
        need = estimate(plan)
    except (RuntimeError, NotImplementedError) as error:  # torch's, for what needs values and not only shapes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return Result(UNKNOWN, f"this network's need cannot be told beforehand: {reason}")
    return machine.check_gpu(need, way)


def _ways(training: Training) -> list[Finding]:
    return examine(training.site)


def _named(site: str, findings: Sequence[Finding], result: str) -> list[str]:
    """The checks with this result that are not about ways to peers, each once."""
    found = [f for f in findings if f.direction == SELF and f.verdict == result]
    return list(dict.fromkeys(f.check if f.peer == site else f"{f.check} of {f.peer}" for f in found))


def _finding(site: str, check: str, result: Result) -> Finding:
    return Finding(site, SELF, check, result.verdict, result.found, result.expected, result.advice)
