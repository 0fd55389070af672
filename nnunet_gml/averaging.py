"""The baselines: the same rounds, the same courier, but weights are averaged instead of learnt from."""

import time
from collections.abc import Sequence
from functools import partial

import torch

from nnunet_gml import merging, payload, weights
from nnunet_gml.exchange import Arrival
from nnunet_gml.proximal import ProximalTerm
from nnunet_gml.rounds import write_average
from nnunet_gml.trainer import FederatedTrainer

POLL_SECONDS = 0.2


class AveragingTrainer(FederatedTrainer):
    """What all averages have in common."""

    def settle(self, own_share: float, shares: Sequence[tuple[Arrival, float]]) -> None:
        """After a mean was taken: momentum, hidden classes, and the list of rounds.

        Args:
            own_share: what is left of our own weights, 0 to 1.
            shares: the peers' weights that went into the mean, and their shares.
        """
        merging.scale_momentum(self.optimizer, own_share)
        self.let_hide(torch.ones(len(self.classes), dtype=torch.bool))
        for arrival, share in shares:
            self.write_down(partial(write_average, arrival=arrival, epoch=self.current_epoch, share=share))


class GossipAverageTrainer(AveragingTrainer):
    """Gossip averaging: our weights become the mean of ours and one random peer's.

    It moves the bytes of `nnunet_gml.learning.GossipTrainer` and trains only one network.
    """

    peer_share: float = 0.5
    """How much of the peer's weights is taken over."""

    def on_epoch_start(self) -> None:
        """Average at once with what has come."""
        arrival = self.receive()
        if arrival is not None:
            merging.mix(self.network, arrival.tensors, self.peer_share, self.names_to_keep())
            self.settle(1 - self.peer_share, [(arrival, self.peer_share)])
            peer = arrival.delivery.peer
            self.say(f"round {arrival.delivery.round}: averaged with the weights of site {peer}")
            self.save_latest()
        super().on_epoch_start()


class FedAvgTrainer(AveragingTrainer):
    """Federated averaging in lock-step: the mean of all sites' weights of a round, weighted by cases.

    At the end of a round every site waits for the others, ``wait_seconds`` of site.toml at most, and
    goes on with those that are there. B. McMahan et al., AISTATS 2017; with ``proximal_weight`` > 0 the
    proximal term of T. Li et al., MLSys 2020 (FedProx). Numbers of cases are each site's own word.
    """

    proximal_weight: float = 0.0
    """FedProx's mu; 0 leaves the term out."""
    in_lock_step = True

    def prepare(self) -> None:
        """With a proximal term: nothing pulls in the warm-up; after ``--c`` the last mean does.

        It is what was loaded: the latest checkpoint is never from between two rounds' ends. One from before
        the mean of its round begins that round again.
        """
        super().prepare()
        if self.proximal_weight:
            self.proximal = ProximalTerm(self.network, self.optimizer, self.proximal_weight)
            if self.round > 0:
                self.proximal.anchor_here()

    def peers_of_round(self, round_: int) -> tuple[str, ...]:
        """Everybody's weights are sent for."""
        return self.own_site.federation.peers_of(self.own_site.name)

    def begin_round(self, round_: int) -> None:
        """Offer ours, wait for the others', and take the mean."""
        super().begin_round(round_)
        dtype = self.offered()
        arrivals = self._wait(round_) if dtype else []
        if arrivals:
            self._average(arrivals, dtype)
        if self.proximal_weight:
            self.proximal.anchor_here()
        self.save_latest()

    def on_epoch_start(self) -> None:
        """What comes too late for its round is not used; the next round asks again."""
        if self.ranks.is_first:
            self.exchange.drop_late()
        super().on_epoch_start()

    def _wait(self, round_: int) -> list[Arrival]:
        peers, seconds = self.peers_of_round(round_), self.own_site.wait_seconds
        arrivals: dict[str, Arrival] = {}
        end = time.monotonic() + seconds
        while self.ranks.share(self._may_come(arrivals) and time.monotonic() < end):
            arrival = self.receive()
            if arrival is not None:
                arrivals[arrival.delivery.peer] = arrival
            else:
                time.sleep(POLL_SECONDS)
        missing = [peer for peer in peers if peer not in arrivals]
        if missing:
            waited = seconds - max(0, round(end - time.monotonic()))
            self.say(f"round {round_}: waited {waited} s in vain for {', '.join(missing)}; going on without")
        return [arrivals[peer] for peer in peers if peer in arrivals]

    def _may_come(self, arrivals: dict[str, Arrival]) -> bool:
        """Whether somebody whose weights are not here may still send them; a refused peer will not."""
        return self.ranks.is_first and bool(self.exchange.open_peers() - set(arrivals))

    def _average(self, arrivals: list[Arrival], dtype: str) -> None:
        """All sites list the same numbers in the same order, so that all get the same mean."""
        site = self.own_site
        own = {name: tensor.detach().cpu() for name, tensor in weights.named_tensors(self.network).items()}
        travelled = payload.decode(payload.encode(own, dtype), own)
        shares = self._shares(arrivals)
        tensors = {site.name: travelled, **{a.delivery.peer: a.tensors for a in arrivals}}
        names = sorted(tensors)
        mean = merging.mean_of([tensors[name] for name in names], [shares[name] for name in names])
        merging.mix(self.network, mean, 1.0, self.names_to_keep())
        self.settle(shares[site.name], [(arrival, shares[arrival.delivery.peer]) for arrival in arrivals])
        told = ", ".join(f"{name} {shares[name]:.2f}" for name in names)
        self.say(f"round {self.round}: mean of {len(names)} sites: {told}")

    def _shares(self, arrivals: list[Arrival]) -> dict[str, float]:
        """Numbers of cases, as shares of 1; all alike where a site keeps its own to itself."""
        cases = {a.delivery.peer: a.delivery.manifest.cases for a in arrivals}
        cases[self.own_site.name] = self.training_cases() if self.own_site.share_cases else None
        counts = {name: float(count) for name, count in cases.items() if count}
        if len(counts) < len(cases):
            self.say("a site withholds its number of cases: all count alike")
            counts = dict.fromkeys(cases, 1.0)
        return {name: count / sum(counts.values()) for name, count in counts.items()}


class FedProxTrainer(FedAvgTrainer):
    """Federated averaging whose sites are held near the last mean while they train."""

    proximal_weight = 0.01
