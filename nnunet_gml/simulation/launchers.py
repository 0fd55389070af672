"""Jobs of a simulation on a cluster, through submitit; the run folder is on a disk that all machines see.

submitit's ``local`` runs the same on this machine, to try it out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_gml.settings import Value
from nnunet_gml.simulation.processes import POLL_SECONDS, STOP_SECONDS, Here, Job, Running
from nnunet_gml.simulation.recipe import parse_setting
from peer_sync.errors import ConfigError

CLUSTERS = ("slurm", "local")
DEFAULTS: Mapping[str, Value] = {"timeout_min": 24 * 60, "cpus_per_task": 1}


def parse_options(entries: Sequence[str]) -> dict[str, Value]:
    """submitit's options, from ``NAME=VALUE``.

    >>> parse_options(["timeout_min=720", "slurm_partition=gpu"])
    {'timeout_min': 720, 'slurm_partition': 'gpu'}

    Raises:
        ConfigError: an entry is not like that.
    """
    return dict(parse_setting(entry, "--launcher-option") for entry in entries)


class Submitted:
    """A job that submitit has taken."""

    def __init__(self, job: Any) -> None:  # noqa: ANN401 - submitit's, an optional package
        self.job = job

    def poll(self) -> int | None:
        """Its exit code; 1 where it never came to one: cancelled, out of time, or its machine failed."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except (FailedJobError, UncompletedJobError):
            return 1


class Cluster:
    """A `nnunet_gml.simulation.processes.Launcher` that submits every job.

    Args:
        folder: for submitit's own files.
        cluster: one of `CLUSTERS`.
        options: as ``AutoExecutor.update_parameters`` takes them, such as ``timeout_min``,
            ``gpus_per_node``, ``slurm_partition``.

    Raises:
        ConfigError: submitit is not installed, finds no such cluster, or does not know an option.
    """

    def __init__(self, folder: Path, cluster: str, options: Mapping[str, Value]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                f"--launcher {cluster} needs submitit, which is not installed",
                "install it into this environment: pip install submitit",
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        self.threads: int | None = int({**DEFAULTS, **options}["cpus_per_task"])
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
            self._executor.update_parameters(**{**DEFAULTS, **options})
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ConfigError(
                f"submitit cannot use {cluster}: {error}", "see --launcher and --launcher-option"
            ) from error

    def start(self, job: Job) -> Submitted:
        """See `nnunet_gml.simulation.processes.Launcher`."""
        self._executor.update_parameters(name=f"{job.log.stem}-{job.site}")
        return Submitted(self._executor.submit(run_here, job))

    def stop(self, running: Sequence[Running]) -> None:
        """See `nnunet_gml.simulation.processes.Launcher`; the cluster ends them."""
        jobs = [each.job for each in running if isinstance(each, Submitted)]
        for job in jobs:
            job.cancel()
        deadline = time.monotonic() + STOP_SECONDS
        while not all(job.done() for job in jobs) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def run_here(job: Job) -> int:
    """Run a job on the machine that it was given, and return its exit code."""
    here = Here()
    process = here.start(job)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            here.stop([process])
