"""The trainer's side of the courier: offer our weights, take in a peer's; no failure stops training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from torch import Tensor, nn

from nnunet_gml import weights
from nnunet_gml.offering import Offering
from nnunet_gml.renewal import check_change
from peer_sync.courier import Courier
from peer_sync.errors import ConfigError, PeerSyncError, RejectedError
from peer_sync.local import LocalCourier
from peer_sync.mailbox import MOVES, TRAINS, Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.orders import WITHOUT_PEER, discard, sentence
from peer_sync.renewal import Renewal, news
from peer_sync.reports import GOES_ON
from peer_sync.site import Site


@dataclass(frozen=True)
class Arrival:
    """A peer's weights that kept every rule.

    Attributes:
        delivery: what the courier brought, and from whom.
        tensors: the weights by name, float32, on the CPU.
        likeness: how far they are from ours.
    """

    delivery: Delivery
    tensors: dict[str, Tensor]
    likeness: weights.Likeness


class Comparisons:
    """Finds out in the background, once for each peer, why its plans were refused.

    Args:
        compare: says it in a sentence, given the peer; None where nobody can.
        tell: called with the sentence, in the background.
    """

    def __init__(self, compare: Callable[[str], str] | None, tell: Callable[[str], None]) -> None:
        self._compare = compare
        self._tell = tell
        self._asked: set[str] = set()

    def look_at(self, peer: str, rule: str) -> None:
        """Begin a comparison if a peer was refused by the rule ``plans``."""
        if rule != "plans" or self._compare is None or peer in self._asked:
            return
        self._asked.add(peer)
        Thread(target=self._run, args=(peer,), name="nnunet_gml plans", daemon=True).start()

    def _run(self, peer: str) -> None:
        if self._compare is not None:
            self._tell(self._compare(peer))


class Exchange:
    """Mailbox and courier of one training.

    Args:
        site: this site's settings.
        network: our network, whose names and shapes a peer's weights must have.
        say: writes a sentence into the training log.
        order: for each class of the federation its place here, see `nnunet_gml.channels`; None: the same.
        plans_digest: of our plans; empty means the one that the federation has agreed on.
        compare: says in a sentence how a peer's plans differ from ours; called in the background, for a peer
            that was refused for its plans.

    Raises:
        ConfigError: the site's folder cannot be used, or another process uses it.
    """

    def __init__(
        self,
        site: Site,
        network: nn.Module,
        say: Callable[[str], None],
        order: Sequence[int] | None = None,
        plans_digest: str = "",
        compare: Callable[[str], str] | None = None,
    ) -> None:
        self.site = site
        self._order = order
        self.schema_digest = weights.schema_digest(network)
        self._say = say
        has_network = site.courier == "thread"
        kind = Courier if has_network else LocalCourier
        self._mailbox = Mailbox(site, (TRAINS, MOVES) if has_network else (TRAINS,))
        plans_digest = plans_digest or site.federation.plans_digest
        self._courier = kind(self._mailbox, plans_digest, self.schema_digest, weights.payload_bytes(network))
        self._renewal = Renewal(site, partial(check_change, plans_digest=plans_digest))
        self._news: SimpleQueue[str] = SimpleQueue()
        self._comparisons = Comparisons(compare if has_network else None, self._news.put)
        self._offering = Offering()
        self._asking = Lock()

    def start(self) -> None:
        """Start the server and the background thread. Raises `ConfigError`."""
        self._courier.start()

    def renewed(self) -> Site | None:
        """This site with a federation.toml that was changed since the last call; None while there is none.

        Then courier and mailbox go on with it as after a new start: transfers under way are cut, and what has
        come and was not taken in is dropped. A file that this training cannot take costs it a sentence.
        """
        try:
            site = self._renewal.settled()
        except ConfigError as error:
            self._say(f"{sentence(error)}; {GOES_ON}")
            return None
        if site is None:
            return None
        self.offered()
        new = self._courier.renewed(site)
        self.tell()
        self._courier = new
        self._say(news(self.site.federation, site.federation))
        self.site = site
        try:
            self._courier.start()
        except (ConfigError, OSError) as error:
            self._say(f"courier: {error}; {GOES_ON}")
        return site

    def begin_round(
        self, network: nn.Module, facts: Facts, peers: Sequence[str], least_round: int = 0
    ) -> None:
        """Offer our weights and send for those of peers; returns as soon as ours are copied.

        Args:
            network: ours.
            facts: what the manifest says, but for the type in which the weights will be written.
            peers: whose weights.
            least_round: an offer of an earlier round is waited out, not taken.
        """
        named = f"site {peers[0]}" if len(peers) == 1 else f"sites {', '.join(peers)}"
        self._say(f"round {facts.round}: offering our weights, sending for those of {named}")
        payload = self._mailbox.state / f".part-round-{facts.round}"
        offer = partial(self._offer, payload, facts, peers, least_round)
        self._offering.begin(network, offer, partial(self._not_offered, payload, facts.round))

    def offered(self) -> str:
        """The type in which our last weights were written, as soon as peers are sent for.

        Empty if nothing was offered and sent for, and then the log says why.
        """
        dtype = self._offering.written()
        self.tell()
        return dtype

    def receive(self, like: nn.Module) -> Arrival | None:
        """The newest weights a peer has sent since the last call, if they are good; returns at once.

        Weights that break a rule go to quarantine, and the log says which rule.
        """
        self.tell()
        delivery = self._next_delivery()
        if delivery is None:
            return None
        place = f"round {delivery.round}: weights of site {delivery.peer}"
        try:
            tensors, likeness = weights.read(delivery.payload, like, delivery.manifest.dtype, self._order)
            self._mailbox.accept(delivery)
        except weights.WeightsError as error:
            self._say(f"{place} refused by rule {error.rule}: {error}; they go to quarantine; {WITHOUT_PEER}")
            self._refuse(delivery, RejectedError(error.rule, str(error), hint=error.hint))
            return None
        except (PeerSyncError, OSError) as error:
            self._say(f"{place} cannot be taken in: {error}; {WITHOUT_PEER}")
            return None
        if delivery.remark:
            self._say(f"{place}: {delivery.remark}")
        return Arrival(delivery, tensors, likeness)

    def open_peers(self) -> set[str]:
        """Peers of this round from whom something may still come; to be asked after `offered`."""
        return self._courier.open_peers()

    def drop_late(self) -> None:
        """Drop what came too late for its round; the peer's next offer is taken as usual."""
        while (delivery := self._next_delivery()) is not None:
            self._say(f"weights of site {delivery.peer} came too late for their round and are not used")
            try:
                self._mailbox.drop(delivery, "it came after the wait of its round")
            except PeerSyncError as error:
                self._say(f"inbox: {error}")

    def met(self, arrival: Arrival, trust: float) -> None:
        """Note in the ledger how far a peer's weights are trusted, 0 to 1."""
        try:
            self._mailbox.meet(arrival.delivery, trust)
        except PeerSyncError as error:
            self._say(f"ledger: {error}")

    def tell(self) -> None:
        """Write what the courier has to say into the training log."""
        for message in self._courier.messages():
            self._say(message)
        for peer, rule in self._courier.refusals():
            self._comparisons.look_at(peer, rule)
        while not self._news.empty():
            self._say(self._news.get())

    def stop(self) -> None:
        """Stop courier and server, and let another process use the folder."""
        self.offered()
        self._courier.stop()
        self.tell()
        self._mailbox.close()

    def _offer(
        self,
        payload: Path,
        facts: Facts,
        peers: Sequence[str],
        least_round: int,
        tensors: Mapping[str, Tensor],
    ) -> str:
        dtype = weights.write(tensors, payload, self.site.payload, self._order)
        with self._asking:
            self._courier.exchange(payload, replace(facts, dtype=dtype), peers, least_round)
        return dtype

    def _not_offered(self, payload: Path, round_: int, error: Exception) -> None:
        discard(payload)
        words = str(error) if isinstance(error, (weights.WeightsError, OSError)) else repr(error)
        self._news.put(f"round {round_}: nothing offered: {words}; {WITHOUT_PEER}")

    def _next_delivery(self) -> Delivery | None:
        with self._asking:
            return self._courier.delivery()

    def _refuse(self, delivery: Delivery, error: RejectedError) -> None:
        try:
            self._mailbox.refuse(delivery, error)
        except PeerSyncError as failure:
            self._say(f"quarantine: {failure}")
