"""How far a simulation is: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

PLAIN_LINE_SECONDS = 15.0
FAITH_SECONDS = 10.0
"""So much of a forecast rests on the guesses alone; afterwards experience outweighs them."""
_STARTED = re.compile(r"(?:^|: )Epoch (\d+)\s*$", re.MULTILINE)
_ENDED = re.compile(r"(?:^|: )Epoch time: ", re.MULTILINE)


def epochs_done(log: str) -> int:
    """Epochs that are over, from the text of an nnU-Net training log; it may hold several starts.

    >>> epochs_done("Epoch 0\\nEpoch time: 3 s\\nEpoch 1\\n")
    1
    """
    started = list(_STARTED.finditer(log))
    if not started:
        return 0
    last = started[-1]
    return int(last.group(1)) + bool(_ENDED.search(log, last.end()))


def epochs_in(path: Path) -> int:
    """Epochs that are over by a log file; 0 while there is none."""
    return epochs_done(path.read_text(errors="replace")) if path.exists() else 0


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(75.2)
    '1:15'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@dataclass(frozen=True)
class Step:
    """One step of a run, with a guess at its duration: only the proportions matter.

    ``arm`` names the arm that it is for, if it is for one.
    """

    title: str
    seconds: float
    arm: str = ""


@dataclass
class Forecast:
    """The time still needed, from the guesses and from how well they have held until now."""

    steps: Sequence[Step]
    spent_seconds: float = 0.0
    guessed_seconds: float = 0.0

    def left(self, number: int, fraction: float, elapsed_seconds: float) -> float:
        """Seconds to the end of the run, in step ``number`` (from 0) at ``fraction`` of it."""
        here = self.steps[number].seconds
        later = sum(step.seconds for step in self.steps[number + 1 :])
        guessed = self.guessed_seconds + fraction * here
        spent = self.spent_seconds + elapsed_seconds
        pace = (spent + FAITH_SECONDS) / (guessed + FAITH_SECONDS)
        return max(0.0, ((1 - fraction) * here + later) * pace)

    def close(self, number: int, elapsed_seconds: float) -> None:
        """Learn from a step that was really run to its end."""
        self.spent_seconds += elapsed_seconds
        self.guessed_seconds += self.steps[number].seconds


@dataclass
class Display:
    """Shows the steps of a run. Use it as a context manager around the whole run."""

    steps: Sequence[Step]
    names: Sequence[str]
    console: Console = field(default_factory=Console)
    forecast: Forecast = field(init=False)

    def __post_init__(self) -> None:
        """Set up the bars; nothing is shown yet."""
        self.forecast = Forecast(self.steps)
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._number, self._began, self._said = 0, time.monotonic(), 0.0
        self._start = time.monotonic()

    def __enter__(self) -> Display:
        """Show the bars, one for each site and one for the run, if this is a terminal."""
        for name in ("run", *self.names):
            self._tasks[name] = self._bars.add_task(name, total=1.0, note="")
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bars as they are."""
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a sentence above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, number: int) -> None:
        """Go to a step, from 0."""
        self._number, self._began, self._said = number, time.monotonic(), 0.0
        self.say(f"step {number + 1} of {len(self.steps)}: {self.steps[number].title}")

    def end(self, was_run: bool) -> float:
        """Close the step and return its seconds; a step skipped on --continue teaches no pace."""
        seconds = time.monotonic() - self._began
        if was_run:
            self.forecast.close(self._number, seconds)
        return seconds

    def update(self, fractions: Mapping[str, float], notes: Mapping[str, str]) -> None:
        """Show how far each site is in this step (0 to 1), with a few words for each."""
        now = time.monotonic()
        whole = sum(fractions.values()) / max(1, len(fractions))
        left = self.forecast.left(self._number, whole, now - self._began)
        title = f"step {self._number + 1} of {len(self.steps)}"
        times = f"{clock(now - self._start)} gone, about {clock(left)} left"
        for name, fraction in fractions.items():
            self._bars.update(self._tasks[name], completed=fraction, note=notes.get(name, ""))
        done = (self._number + whole) / len(self.steps)
        self._bars.update(self._tasks["run"], description=title, completed=done, note=times)
        if not self.console.is_terminal and now - self._said > PLAIN_LINE_SECONDS:
            self._said = now
            each = ", ".join(f"{name} {notes.get(name, '')}".strip() for name in fractions)
            self.say(f"  {title}: {each}; {times}")
