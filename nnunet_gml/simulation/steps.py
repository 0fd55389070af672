"""The steps of a simulation, one after the other, and the record of them in run.json."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_gml import __version__
from nnunet_gml.simulation import arms, commands
from nnunet_gml.simulation.loopback import write_federation
from nnunet_gml.simulation.processes import Job, Outcome, resume_script, run_side_by_side
from nnunet_gml.simulation.progress import Display, Step, epochs_in
from nnunet_gml.simulation.scores import STOCK, Table, bytes_collected, evaluate, write_scores
from nnunet_gml.simulation.shared_plans import share_plans
from nnunet_gml.simulation.workspace import Recipe, SiteSpace
from peer_sync.errors import ConfigError

START_SECONDS = 12.0
"""About what one process of nnU-Net needs before it begins; only for the forecast."""
ITERATION_SECONDS = 0.1


@dataclass
class Simulation:
    """A run in its folder: what is done already is not done again."""

    recipe: Recipe
    out: Path
    sites: Sequence[SiteSpace]
    jobs: int
    record: dict[str, Any]
    failed: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Lay out the steps."""
        self.generated = self.out / "trainers"
        self.plan: list[tuple[Step, Callable[[], bool]]] = [
            (Step("look at the cases", self._guess(1.0)), self._fingerprints),
            (Step("plan, once for all sites", START_SECONDS), self._plans),
            (Step("preprocess", self._guess(1.5)), self._preprocess),
        ]
        for trainer in self.recipe.trainers:
            training = Step(f"train {trainer}, sites side by side", self._guess_training(trainer))
            self.plan.append((training, partial(self._train, trainer)))
            prediction = Step(f"predict the held-out cases with {trainer}", self._guess(1.5))
            self.plan.append((prediction, partial(self._predict, trainer)))

    def run(self) -> int:
        """Do all steps and write the results; 1 if a site failed in one of them."""
        self._begin()
        steps = [step for step, _ in self.plan]
        with Display(steps, [site.name for site in self.sites]) as self.display:
            for number, (step, work) in enumerate(self.plan):
                self.display.begin(number)
                was_run = work()
                seconds = self.display.end(was_run)
                record = {"title": step.title, "seconds": round(seconds, 1), "run": was_run}
                self.record["steps"].append(record)
                self._write_record()
            self._write_results()
        for outcome in self._still_failed():
            self.display.say(self._advice(outcome) + "\n" + outcome.job.last_lines())
        return 1 if self._still_failed() else 0

    def _begin(self) -> None:
        arms.write_arms(self.generated, self.recipe, self._threads())
        for site in self.sites:
            (site.folder / "nnUNet_raw").mkdir(parents=True, exist_ok=True)
            (site.folder / "nnUNet_results").mkdir(exist_ok=True)
            site.preprocessed.mkdir(parents=True, exist_ok=True)
            link = site.folder / "nnUNet_raw" / site.dataset
            if not link.is_symlink():
                link.symlink_to(site.raw, target_is_directory=True)
        packages = ("nnunetv2", "torch", "numpy", "SimpleITK")
        self.record.update(
            command=shlex.join(sys.argv),
            versions={
                "nnunet-gml": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in packages},
            },
            seed=self.recipe.seed,
            sites={site.name: str(site.raw) for site in self.sites},
            threads_per_training=self._threads(),
            prediction="without mirroring (--disable_tta), for all trainers alike",
        )
        self.record.setdefault("started", _now())
        self.record.setdefault("steps", [])
        self._write_record()

    def _threads(self) -> int:
        return max(1, (os.cpu_count() or 1) // len(self.sites))

    def _guess(self, starts: float) -> float:
        return starts * START_SECONDS * len(self.sites) / min(self.jobs, len(self.sites))

    def _guess_training(self, trainer: str) -> float:
        iterations = self.recipe.epochs * self.recipe.iterations * (1 if trainer == STOCK else 1.6)
        crowd = len(self.sites) / min(os.cpu_count() or 1, len(self.sites))
        return crowd * (3 * START_SECONDS + iterations * ITERATION_SECONDS)

    def _fingerprints(self) -> bool:
        return self._prepare([commands.fingerprint(site, self.generated) for site in self.sites])

    def _plans(self) -> bool:
        was_run = self._prepare([commands.plan(self.sites[0], self.generated)])
        digest = share_plans(self.sites, self.recipe)
        self.record["plans_digest"] = digest
        write_federation(self.out, self.sites, self.recipe, digest)
        return was_run

    def _preprocess(self) -> bool:
        return self._prepare([commands.preprocess(site, self.generated, self.recipe) for site in self.sites])

    def _prepare(self, jobs: Sequence[Job]) -> bool:
        """Run jobs without which no site can go on."""
        outcomes = run_side_by_side(jobs, self.jobs, self._watch(jobs), lambda outcome: None)
        for outcome in outcomes:
            if outcome.exit_code != 0:
                raise ConfigError(
                    f"site {outcome.job.site}: {shlex.join(outcome.job.command)} ended with "
                    f"{outcome.reason()}:\n{outcome.job.last_lines()}",
                    f"the whole log is {outcome.job.log}",
                )
        return bool(outcomes)

    def _train(self, trainer: str) -> bool:
        jobs = [commands.train(site, self.generated, self.recipe, trainer) for site in self.sites]
        for site, job in zip(self.sites, jobs, strict=True):
            script = site.folder / f"resume-{trainer}.sh"
            script.write_text(resume_script(job))
            script.chmod(0o755)
        watch = self._watch(jobs, self.recipe.epochs)
        return bool(run_side_by_side(jobs, len(jobs), watch, self._ended))

    def _predict(self, trainer: str) -> bool:
        jobs = [
            commands.predict(site, self.generated, self.recipe, trainer)
            for site in self.sites
            if commands.train(site, self.generated, self.recipe, trainer).is_done()
        ]
        return bool(run_side_by_side(jobs, self.jobs, self._watch(jobs), self._ended))

    def _watch(self, jobs: Sequence[Job], epochs: int = 0) -> Callable[[], None]:
        """Shows how far each job is: by its epochs if it has such, else whether it is done."""

        def watch() -> None:
            done = {job.site: float(job.is_done()) for job in jobs}
            if not epochs:
                notes = {site: "done" if fraction else "to do" for site, fraction in done.items()}
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
        script = self.out / "sites" / job.site / f"resume-{job.log.stem.removeprefix('train-')}.sh"
        if script.exists():
            text += f"\nto bring it back: {script}\nwhich runs: {shlex.join([*job.command, '--c'])}"
        return text + "\nafterwards the same command with --continue completes the table"

    def _write_results(self) -> None:
        pairs = [(site, trainer) for site in self.sites for trainer in self.recipe.trainers]
        scores = [score for site, trainer in pairs for score in evaluate(site, trainer)]
        write_scores(self.out / "results.csv", scores)
        moved = {(s.name, t): bytes_collected(s.mail(t, self.recipe)) for s, t in pairs if t != STOCK}
        table = Table(tuple(s.name for s in self.sites), self.recipe.trainers, tuple(scores), moved)
        head = f"Mean Dice over held-out cases and classes. Command: `{shlex.join(sys.argv)}`"
        (self.out / "table.md").write_text(f"{head}\n\n{table.markdown()}")
        self.display.say(f"\n{table.markdown()}")
        self.record["finished"] = _now()
        self.record["failed"] = [f"{o.job.site}: {o.job.log.stem}" for o in self._still_failed()]
        self._write_record()

    def _write_record(self) -> None:
        part = self.out / "run.json.part"
        part.write_text(json.dumps(self.record, indent=1) + "\n")
        part.replace(self.out / "run.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
