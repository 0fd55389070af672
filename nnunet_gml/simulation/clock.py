"""Gossip in lock-step: every round waits for the peer's weights of the same round.

In practice gossip never waits. In a simulation it makes who learns from what independent of how fast the
sites happen to run beside each other.
"""

from __future__ import annotations

import time

from nnunet_gml.exchange import Arrival
from nnunet_gml.trainer import FederatedTrainer

POLL_SECONDS = 0.2


def in_step(base: type[FederatedTrainer]) -> type[FederatedTrainer]:
    """The trainer, with rounds that wait, ``wait_seconds`` of site.toml at most.

    One that is in lock-step already stays as it is.
    """
    if base.in_lock_step:
        return base

    class InStep(base):  # type: ignore[valid-type, misc]
        """Takes weights of the same round only, and waits for them."""

        in_lock_step = True
        _came: Arrival | None = None

        def begin_round(self, round_: int) -> None:
            """As it is, and then wait until the peer's weights are here, or will not come."""
            super().begin_round(round_)
            offered = self.offered()
            end = time.monotonic() + self.own_site.wait_seconds
            while offered and self.exchange.open_peers() and time.monotonic() < end:
                self._came = super().receive()
                if self._came is not None:
                    break
                time.sleep(POLL_SECONDS)

        def receive(self) -> Arrival | None:
            """What a round has waited for, or as it is."""
            came, self._came = self._came, None
            return came or super().receive()

    return InStep
