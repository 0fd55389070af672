"""The steps of a simulation, one after the other, and the record of them in run.json."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_gml.simulation import arms, commands, datasets
from nnunet_gml.simulation.faults import check_faults
from nnunet_gml.simulation.loopback import write_federation
from nnunet_gml.simulation.processes import Here, Job, Launcher, Outcome, resume_script, run_side_by_side
from nnunet_gml.simulation.progress import Display, Step, epochs_in
from nnunet_gml.simulation.recipe import ENSEMBLE, POOLED, Arm, Recipe, parse_arm
from nnunet_gml.simulation.record import check_trained, facts_of_call, note_training
from nnunet_gml.simulation.results import write_results
from nnunet_gml.simulation.shared_plans import share_plans
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.errors import ConfigError

START_SECONDS = 12.0
"""About what one process of nnU-Net needs before it begins; only for the forecast."""
ITERATION_SECONDS = 0.1


@dataclass
class Simulation:
    """A run in its folder: what is done already is not done again.

    Attributes:
        recipe: what decides the numbers.
        out: the run folder.
        sites: laid out below it.
        jobs: processes at once while preparing and predicting.
        record: the content of run.json.
        launcher: where processes run.
        side_by_side: trainings at once in an arm without exchange; None: all.
        failed: what has failed until now.
    """

    recipe: Recipe
    out: Path
    sites: Sequence[SiteSpace]
    jobs: int
    record: dict[str, Any]
    launcher: Launcher = field(default_factory=Here)
    side_by_side: int | None = None
    failed: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Lay out the steps."""
        self.generated = self.out / "trainers"
        self.pooled = [
            datasets.pooled_place(self.out, self.sites) for arm in self.recipe.arms if arm.name == POOLED
        ]
        self.places = [*self.sites, *self.pooled]
        self.plan: list[tuple[Step, Callable[[], bool]]] = [
            (Step("look at the cases", self._guess(1.0)), self._fingerprints),
            (Step("plan, once for all sites", START_SECONDS), self._plans),
            (Step("preprocess", self._guess(1.5)), self._preprocess),
        ]
        for arm in self.recipe.arms:
            if arm.name == ENSEMBLE:
                each = self._guess(1.5 * len(self.sites))
                self.plan.append((Step(f"predict with {arm.name}", each, arm.name), self._ensemble))
                continue
            where = "all cases in one place" if arm.name == POOLED else "sites side by side"
            training = Step(f"train {arm.name}, {where}", self._guess_training(arm), arm.name)
            self.plan.append((training, partial(self._train, arm)))
            prediction = Step(f"predict the held-out cases with {arm.name}", self._guess(1.5), arm.name)
            self.plan.append((prediction, partial(self._predict, arm)))

    def run(self) -> int:
        """Do all steps and write the results; 1 if a site failed in one of them."""
        self._begin()
        steps = [step for step, _ in self.plan]
        with Display(steps, [place.name for place in self.places]) as self.display:
            for number, (step, work) in enumerate(self.plan):
                self.display.begin(number)
                was_run = work()
                seconds = self.display.end(was_run)
                record = {"title": step.title, "arm": step.arm, "seconds": round(seconds, 1), "run": was_run}
                self.record["steps"].append(record)
                self._write_record()
            table = write_results(self.out, self.sites, self.recipe, self.record)
            self.display.say(f"\n{table.markdown()}")
        self.record["finished"] = _now()
        self.record["failed"] = [f"{o.job.site}: {o.job.log.stem}" for o in self._still_failed()]
        self._write_record()
        for outcome in self._still_failed():
            self.display.say(self._advice(outcome) + "\n" + outcome.job.last_lines())
        return 1 if self._still_failed() else 0

    def _begin(self) -> None:
        datasets.check_missing(self.sites, self.recipe)
        check_faults(self.recipe.faults, [site.name for site in self.sites], self.recipe.by_folder)
        check_trained(self.record, self.recipe, self.sites)
        arms.write_arms(self.generated, self.recipe, self._threads())
        datasets.lay_out(self.sites, self.recipe)
        for place in self.pooled:
            datasets.pool(place, self.sites, self.recipe.fold)
        self.record.update(facts_of_call(self.recipe, self.sites, self._threads()))
        self.record.setdefault("started", _now())
        self.record.setdefault("steps", [])
        self._write_record()

    def _threads(self) -> int:
        return self.launcher.threads or max(1, (os.cpu_count() or 1) // len(self.sites))

    def _guess(self, starts: float) -> float:
        return starts * START_SECONDS * len(self.sites) / min(self.jobs, len(self.sites))

    def _guess_training(self, arm: Arm) -> float:
        iterations = self.recipe.epochs * self.recipe.iterations * (1.6 if arm.exchanges else 1)
        crowd = len(self.sites) / min(os.cpu_count() or 1, len(self.sites))
        return crowd * (3 * START_SECONDS + iterations * ITERATION_SECONDS)

    def _fingerprints(self) -> bool:
        return self._prepare([commands.fingerprint(place, self.generated) for place in self.places])

    def _plans(self) -> bool:
        was_run = self._prepare([commands.plan(self.sites[0], self.generated)])
        digest = share_plans(self.places, self.recipe)
        self.record["plans_digest"] = digest
        write_federation(self.out, self.sites, self.recipe, digest)
        return was_run

    def _preprocess(self) -> bool:
        return self._prepare(
            [commands.preprocess(place, self.generated, self.recipe) for place in self.places]
        )

    def _prepare(self, jobs: Sequence[Job]) -> bool:
        """Run jobs without which no site can go on."""
        outcomes = run_side_by_side(jobs, self.jobs, self._watch(jobs), lambda outcome: None, self.launcher)
        for outcome in outcomes:
            if outcome.exit_code != 0:
                raise ConfigError(
                    f"site {outcome.job.site}: {shlex.join(outcome.job.command)} ended with "
                    f"{outcome.reason()}:\n{outcome.job.last_lines()}",
                    f"the whole log is {outcome.job.log}",
                )
        return bool(outcomes)

    def _train(self, arm: Arm) -> bool:
        places = self.pooled if arm.name == POOLED else self.sites
        jobs = [commands.train(place, self.generated, self.recipe, arm.name) for place in places]
        for place, job in zip(places, jobs, strict=True):
            script = place.folder / f"resume-{arm.name}.sh"
            script.write_text(resume_script(job))
            script.chmod(0o755)
        if not all(job.is_done() for job in jobs):
            note_training(self.record, arm, self.recipe, places)
            self._write_record()
        watch = self._watch(jobs, self.recipe.epochs)
        limit = len(jobs) if arm.exchanges else self.side_by_side or len(jobs)  # those that meet run together
        return bool(run_side_by_side(jobs, limit, watch, self._ended, self.launcher))

    def _predict(self, arm: Arm) -> bool:
        """Each site's held-out cases with its own network, or all sites' with the pooled one."""
        pairs = [(site, place) for site in self.sites for place in self.pooled if arm.name == POOLED]
        jobs = [
            commands.predict(site, self.generated, self.recipe, arm.name, place)
            for site, place in pairs or [(site, site) for site in self.sites]
            if commands.train(place, self.generated, self.recipe, arm.name).is_done()
        ]
        return self._run_all(jobs)

    def _ensemble(self) -> bool:
        """Every individual network predicts every site's held-out cases; nnU-Net averages."""
        known = [parse_arm(words) for words in self.record["recipe"]["trainers"]]
        name = next(arm.name for arm in known if arm.is_individual)
        lacking = [
            site.name
            for site in self.sites
            if not commands.train(site, self.generated, self.recipe, name).is_done()
        ]
        if lacking:
            self.display.say(f"no ensemble: {name} is not finished at {', '.join(lacking)}")
            return False
        jobs = [commands.ensemble(site, self.generated, self.sites) for site in self.sites]
        waiting = [site for site, job in zip(self.sites, jobs, strict=True) if not job.is_done()]
        first = [
            commands.predict_probabilities(site, self.generated, self.recipe, name, model)
            for site in waiting
            for model in self.sites
        ]
        self._run_all(first)
        was_run = all(job.is_done() for job in first) and self._run_all(jobs)
        for site, job in zip(self.sites, jobs, strict=True):
            if job.is_done():
                commands.keep_segmentations(site, self.sites, name)
        return was_run

    def _run_all(self, jobs: Sequence[Job]) -> bool:
        return bool(run_side_by_side(jobs, self.jobs, self._watch(jobs), self._ended, self.launcher))

    def _watch(self, jobs: Sequence[Job], epochs: int = 0) -> Callable[[], None]:
        """Shows how far each job is: by its epochs if it has such, else whether it is done."""

        def watch() -> None:
            done = _shares_done(jobs)
            if not epochs:
                notes = {site: "done" if share == 1 else "to do" for site, share in done.items()}
                self.display.update(done, notes)
                return
            over = {job.site: min(epochs_in(job.log), epochs) for job in jobs}
            notes = {site: f"epoch {number} of {epochs}" for site, number in over.items()}
            self.display.update({site: max(done[site], over[site] / epochs) for site in done}, notes)

        return watch

    def _ended(self, outcome: Outcome) -> None:
        if outcome.exit_code != 0:
            self.failed.append(outcome)
            self.display.say(self._advice(outcome))

    def _still_failed(self) -> list[Outcome]:
        return [outcome for outcome in self.failed if not outcome.job.is_done()]

    def _advice(self, outcome: Outcome) -> str:
        job = outcome.job
        text = f"site {job.site} stopped ({outcome.reason()}), the others go on; its log: {job.log}"
        script = job.log.parents[1] / f"resume-{job.log.stem.removeprefix('train-')}.sh"
        if script.exists():
            text += f"\nto bring it back: {script}\nwhich runs: {shlex.join([*job.command, '--c'])}"
        return text + "\nafterwards the same command with --continue completes the table"

    def _write_record(self) -> None:
        part = self.out / "run.json.part"
        part.write_text(json.dumps(self.record, indent=1) + "\n")
        part.replace(self.out / "run.json")


def _shares_done(jobs: Sequence[Job]) -> dict[str, float]:
    done: dict[str, list[bool]] = {}
    for job in jobs:
        done.setdefault(job.site, []).append(job.is_done())
    return {site: sum(each) / len(each) for site, each in done.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
