"""Part ``surfaces``: cases per second of `nnunet-gml compare`'s measures, on two cores, and the memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from measuring import Figures, figures, memory_mib
from speed_settings import Settings, span, verdict

from nnunet_gml.comparison.predicted import Predicted
from nnunet_gml.markdown import markdown_table

PART = "surfaces"
TITLE = "Surface metrics of many cases"
JOBS = 2
CASES_PER_REPETITION, QUICK_CASES = 100, 4
BLOCKS = 10
"""The run is cut into so many, for medians."""
ALONE = 20
"""One case in so many is measured by one process too, half of them before and half after."""
PARALLEL_TARGET, MEMORY_TARGET = 0.6, 1.1
PHANTOMS = 8
ABOUT = """\
`nnunet_gml.comparison`'s own `measure`, as `nnunet-gml compare` calls it, from files to the table: Dice, NSD
with areas, HD95 and volumes, by {jobs} processes. {cases} cases with {classes} classes,
{what}.
These are {distinct} different cases{repeated}.

The ratio of two processes to one is that of seconds for each case, without their start; the memory is that of
all processes together (what they share counts for each), the most in the second half of the run relative to
the first. Both targets were set here.
"""
REPEATED = ", each measured about {times:.0f} times under other names"
REAL = "contours of one physician against another's (HeadNeckContours)"
PHANTOM = (
    "the built-in phantom, one site's style of contouring against another's, as there were no real contours"
)


def measure(settings: Settings) -> dict[str, Any]:
    """Measure all cases by two processes, and some by one."""
    folder = settings.out / PART
    what = prepare(folder / "different", settings.quick)
    per_repetition = QUICK_CASES if settings.quick else CASES_PER_REPETITION
    cases = per_repetition * settings.repetitions
    some = max(2, cases // ALONE // 2)
    alone = [run(spread(folder, some), jobs=1)]
    together = run(spread(folder, cases), JOBS)
    alone.append(run(spread(folder, some), jobs=1))
    dataset = json.loads((folder / "different" / "dataset.json").read_text())
    return {
        "what": what,
        "cases": cases,
        "different": len(names(folder / "different")),
        "classes": len(dataset["labels"]) - 1,
        "together": together,
        "alone": alone,
    }


def prepare(folder: Path, quick: bool) -> str:
    """Write pairs of segmentations, once; what they are, in words."""
    if not (folder / "what.txt").exists():
        from headneck import data_folder

        for name in ("references", "predictions"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        is_real = (data_folder() / "cases.csv").is_file()
        labels = write_contours(folder, data_folder(), quick) if is_real else write_phantoms(folder)
        dataset = {
            "labels": {"background": 0, **labels},
            "channel_names": {"0": "CT"},
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(dataset))
        (folder / "what.txt").write_text(REAL if is_real else PHANTOM)
    return (folder / "what.txt").read_text()


def write_contours(folder: Path, data: Path, quick: bool) -> dict[str, int]:
    """Both raters' contours of every scan, on one grid; names and values of the organs."""
    from headneck import ORGANS, _write, label_names, raters_on_one_grid, read_scans

    scans = [scan for own in read_scans(data)[0].values() for scan in own]
    for scan in scans[:2] if quick else scans:
        pair = raters_on_one_grid(data, scan).values()
        for labels, name in zip(pair, ("references", "predictions"), strict=True):
            _write(labels * (labels <= ORGANS), folder / name / f"{scan}.nii.gz")
    return label_names(data)


def write_phantoms(folder: Path) -> dict[str, int]:
    """The same patients as two sites contour them; names and values of the organs."""
    import numpy as np

    from nnunet_gml.anatomy import patient
    from nnunet_gml.phantom import ORGANS, STYLES, _write_nifti, contour

    for number in range(PHANTOMS):
        organs = patient(np.random.default_rng(number)).organs
        for style, name in (("north", "references"), ("east", "predictions")):
            _write_nifti(contour(organs, STYLES[style]), folder / name / f"phantom_{number}.nii.gz")
    return dict(ORGANS)


def names(folder: Path) -> list[str]:
    """Files of the references."""
    return sorted(path.name for path in (folder / "references").iterdir())


def spread(folder: Path, cases: int) -> Predicted:
    """So many cases: links to the different ones, in turn."""
    different, many = folder / "different", folder / f"cases-{cases}"
    files = names(different)
    for name in ("references", "predictions"):
        (many / name).mkdir(parents=True, exist_ok=True)
        for number in range(cases):
            link = many / name / f"case_{number:04}.nii.gz"
            if not link.is_symlink():
                link.symlink_to((different / name / files[number % len(files)]).resolve())
    dataset = json.loads((different / "dataset.json").read_text())
    return Predicted("here", "arm", many / "predictions", many / "references", dataset)


def run(predicted: Predicted, jobs: int) -> dict[str, Any]:
    """Measure every case.

    Returns:
        ``seconds``: when each was done, after the start. ``mebibytes``: of all processes at these moments.
        ``surfaces``: pairs of contours whose surfaces were compared.
    """
    import torch

    from nnunet_gml.comparison.measures import measure as measure_cases

    seconds: list[float] = []
    mebibytes: list[float] = []
    start, threads = time.perf_counter(), torch.get_num_threads()

    def done() -> None:
        seconds.append(time.perf_counter() - start)
        mebibytes.append(memory_mib(os.getpid(), "VmRSS"))

    torch.set_num_threads(1)
    scores = measure_cases([predicted], {}, jobs, done)
    torch.set_num_threads(threads)
    return {"seconds": seconds, "mebibytes": mebibytes, "surfaces": int(scores["hd95_mm"].notna().sum())}


def rates(seconds: Sequence[float]) -> Figures:
    """Cases per second, block by block; the start counts in the first.

    >>> rates([0.5 * (number + 1) for number in range(20)])
    Figures(median=2.0, least=2.0, most=2.0)
    """
    length = max(1, len(seconds) // BLOCKS)
    ends = [0.0, *seconds[length - 1 :: length]]
    return figures([length / (end - start) for start, end in pairwise(ends)])


def seconds_of_a_case(runs: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the runs' cases after the first of each, which the start is in.

    >>> seconds_of_a_case([{"seconds": [9.0, 10.0]}, {"seconds": [5.0, 7.0, 9.0]}])
    1.6666666666666667
    """
    spent = sum(run["seconds"][-1] - run["seconds"][0] for run in runs)
    return float(spent / sum(len(run["seconds"]) - 1 for run in runs))


def tables(found: Mapping[str, Any]) -> str:
    """The section."""
    together, resident = found["together"], found["together"]["mebibytes"]
    one, two = seconds_of_a_case(found["alone"]), seconds_of_a_case([together])
    half = len(resident) // 2
    growth = max(resident[half:]) / max(resident[:half])
    judged = [
        [words, f"{value:.2f}", f"{target:g}", verdict(value, target)]
        for words, value, target in (
            ("two processes over one", two / one, PARALLEL_TARGET),
            ("memory, second half over first", growth, MEMORY_TARGET),
        )
    ]
    measured = [
        [
            "cases per second, two processes, tenth by tenth (the first has the start)",
            span(rates(together["seconds"]), "{:.2f}"),
        ],
        ["cases per second, one process", f"{1 / one:.2f}"],
        ["all cases", f"{together['seconds'][-1]:.0f} s, {together['surfaces']:,} pairs of surfaces"],
        ["most memory, all processes", f"{max(resident):,.0f} MiB"],
    ]
    return "\n".join(
        [
            about(found),
            markdown_table([["", "ratio", "target", ""], *judged]),
            markdown_table([["", "measured"], *measured]),
        ]
    )


def about(found: Mapping[str, Any]) -> str:
    """What was measured, and how often the same cases."""
    times = found["cases"] / found["different"]
    return ABOUT.format(
        jobs=JOBS,
        cases=f"{found['cases']:,}",
        classes=found["classes"],
        what=found["what"],
        distinct=found["different"],
        repeated=REPEATED.format(times=times) if times > 1 else "",
    )
