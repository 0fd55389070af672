"""Where the time of one thread goes, by stages that may lie within each other."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stages:
    """Seconds by stage; time in an inner stage is not counted in the one around it.

    Args:
        settle: called at every border, such as `torch.cuda.synchronize`, so that work still queued counts
            where it was ordered.
        clock: in seconds.
    """

    def __init__(
        self, settle: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._settle = settle
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block as this stage."""
        self._account()
        self._open.append(name)
        try:
            yield
        finally:
            self._account()
            self._open.pop()

    def watch(self, owner: Any, attribute: str, name: str) -> None:  # noqa: ANN401 - any object or module
        """Count every call of a function from now on as this stage; the function is replaced in its owner."""
        work = getattr(owner, attribute)

        @functools.wraps(work)
        def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
            with self.stage(name):
                return work(*args, **kwargs)

        setattr(owner, attribute, counted)

    def _account(self) -> None:
        """Give the time since the last border to the innermost stage."""
        self._settle()
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
