"""The faults of a simulated site, done to its own exchange: see `nnunet_gml.simulation.faults`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunet_gml.exchange import Arrival, Exchange
from nnunet_gml.simulation.faults import KINDS, Fault, parse_faults
from nnunet_gml.trainer import FederatedTrainer
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import Facts, Manifest
from peer_sync.site import Site

DAMAGED_BYTES = 256


class FaultyExchange:
    """Stands in for an `Exchange`, and makes a new one each time the site comes back.

    What no fault changes is the exchange's own.

    Args:
        faults: of this site.
        exchange: the first one, not started.
        renew: makes another.
        say: writes a sentence into the training log.
        round_: the last one that was begun, 0 for none.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        exchange: Exchange,
        renew: Callable[[], Exchange],
        say: Callable[[str], None],
        round_: int = 0,
    ) -> None:
        self._faults = faults
        self._exchange = exchange
        self._renew = renew
        self._say = say
        self._round = round_
        self._is_away = False
        self._damage()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the exchange has it
        return getattr(self._exchange, name)

    def start(self) -> None:
        """As `Exchange.start`; a training that is continued while its site is away stays away."""
        if self._strikes("away", self._round):
            self._leave()
        else:
            self._exchange.start()

    def begin_round(
        self,
        network: nn.Module,
        facts: Facts,
        peers: Sequence[str],
        least_round: int = 0,
    ) -> None:
        """As `Exchange.begin_round`, with what strikes in this round."""
        self._round = round_ = facts.round
        for kind in KINDS:
            if self._strikes(kind, round_):
                self._say(f"round {round_}: simulated fault: {kind} ({KINDS[kind]})")
        if self._strikes("away", round_):
            self._leave()
            return
        self._come_back()
        if self._strikes("noise", round_):
            network = noise_like(network, round_)
        self._exchange.begin_round(network, facts, peers, least_round)

    def offered(self) -> str:
        """As `Exchange.offered`; nothing while away."""
        return "" if self._is_away else self._exchange.offered()

    def renewed(self) -> Site | None:
        """As `Exchange.renewed`; nothing while away."""
        return None if self._is_away else self._exchange.renewed()

    def receive(self, like: nn.Module) -> Arrival | None:
        """As `Exchange.receive`; nothing while away."""
        return None if self._is_away else self._exchange.receive(like)

    def open_peers(self) -> set[str]:
        """As `Exchange.open_peers`; none while away."""
        return set() if self._is_away else self._exchange.open_peers()

    def stop(self) -> None:
        """As `Exchange.stop`."""
        if not self._is_away:
            self._exchange.stop()

    def _leave(self) -> None:
        self.stop()
        self._is_away = True

    def _come_back(self) -> None:
        if self._is_away:
            self._exchange = self._renew()
            self._is_away = False
            self._damage()
            self._exchange.start()

    def _strikes(self, kind: str, round_: int) -> bool:
        return any(fault.kind == kind and fault.strikes(round_) for fault in self._faults)

    def _damage(self) -> None:
        damage_offers(self._exchange._mailbox, lambda round_: self._strikes("garbage", round_))


def damage_offers(mailbox: Mailbox, strikes: Callable[[int], bool]) -> None:
    """From now on, change bytes of what is offered in these rounds, as soon as it is in the outbox."""
    offer = mailbox.offer

    def offer_damaged(payload: Path, facts: Facts) -> Manifest:
        manifest = offer(payload, facts)
        if strikes(manifest.round):
            start = max(0, manifest.payload_bytes // 2 - DAMAGED_BYTES)
            with (mailbox.outbox / manifest.payload).open("r+b") as file:
                file.seek(start)
                damaged = bytes(255 - byte for byte in file.read(DAMAGED_BYTES))
                file.seek(start)
                file.write(damaged)
        return manifest

    mailbox.offer = offer_damaged  # type: ignore[method-assign]


def noise_like(network: nn.Module, seed: int) -> nn.Module:
    """A network of the same shapes, with random tensors, each as large as it was (root mean square)."""
    generator = torch.Generator().manual_seed(seed)
    noisy = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in noisy.state_dict().values():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn * tensor.float().square().mean().sqrt().cpu())
    return noisy


def with_faults(base: type[FederatedTrainer], entries: Sequence[str]) -> type[FederatedTrainer]:
    """The trainer, whose site has its faults among the entries."""

    class Faulty(base):  # type: ignore[valid-type, misc]
        """See `FaultyExchange`."""

        exchange: Any

        def prepare(self) -> None:
            """Put the faults between training and exchange, before the exchange is started."""
            super().prepare()
            faults = [fault for fault in parse_faults(entries) if fault.site == self.own_site.name]
            if faults and self.ranks.is_first:
                self.exchange = FaultyExchange(faults, self.exchange, self.new_exchange, self.say, self.round)

    return Faulty
