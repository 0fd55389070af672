"""Faults of a simulated site, done to a real exchange, and gossip in lock-step."""

import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from courier_kit import FACTS, build_sites
from torch import nn
from trainer_kit import a_little_further, log_of, rounds

from nnunet_gml.averaging import FedAvgTrainer
from nnunet_gml.exchange import Exchange
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.simulation import arms
from nnunet_gml.simulation.clock import in_step
from nnunet_gml.simulation.faults import Fault, check_faults, parse_faults
from nnunet_gml.simulation.faulty import FaultyExchange, noise_like, with_faults
from nnunet_gml.simulation.recipe import LOCK_STEP, Recipe, parse_arm
from peer_sync.errors import ConfigError


class Pair:
    """North, which is well, and south, which has faults; they exchange in this process."""

    def __init__(self, folder, served, *faults, round_=0):
        self.sites = build_sites(folder, served=served)
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))
        self.said = []
        self.north = Exchange(self.sites["north"], self.network, self.said.append)
        self.facts = replace(FACTS, schema_digest=self.north.schema_digest)
        parsed = [fault for fault in parse_faults(faults) if fault.site == "south"]
        self.south = FaultyExchange(parsed, self.new_south(), self.new_south, self.said.append, round_)

    def new_south(self):
        return Exchange(self.sites["south"], self.network, self.said.append)

    def start(self):
        self.north.start()
        self.south.start()

    def stop(self):
        self.north.stop()
        self.south.stop()

    def offer(self, round_):
        """South offers; returns the type in which, empty for nothing."""
        facts = replace(self.facts, round=round_)
        self.south.begin_round(self.network, facts, ("north",))
        return self.south.offered()

    def fetch(self, round_, seconds=60.0):
        """What north gets of south; None if it is refused, or nobody is there."""
        facts = replace(self.facts, round=round_)
        self.north.begin_round(self.network, facts, ("south",), least_round=round_)
        self.north.offered()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            arrival = self.north.receive(self.network)
            if arrival is not None or not self.north.open_peers():
                return arrival
            time.sleep(0.05)
        return None


@pytest.fixture
def pair(tmp_path):
    """Builds a pair, and stops it in the end."""
    made = []

    def build(*faults, served=False, round_=0):
        made.append(Pair(tmp_path, served, *faults, round_=round_))
        made[-1].start()
        return made[-1]

    yield build
    for each in made:
        each.stop()


def test_garbage_is_refused_by_its_digest(pair):
    """Round 1 comes in; what round 2 offers was changed after signing, and goes to quarantine."""
    two = pair("south=garbage:2")

    two.offer(1)
    good = two.fetch(1)
    two.offer(2)
    bad = two.fetch(2)

    assert good is not None and bad is None
    assert any("rule sha256" in sentence for sentence in two.said), two.said
    assert any("round 2: simulated fault: garbage" in sentence for sentence in two.said)


def test_noise_is_rightly_signed_and_refused_for_what_it_is(pair):
    """The courier takes it, and the check of the weights does not; afterwards an honest offer is taken."""
    two = pair("south=noise:1-1")

    two.offer(1)
    noise = two.fetch(1)
    two.offer(2)
    good = two.fetch(2)

    assert noise is None and good is not None
    assert any("weights of site south refused by rule" in sentence for sentence in two.said), two.said
    assert not any("sha256" in sentence for sentence in two.said)


def test_noise_is_as_large_as_the_weights_and_nothing_like_them():
    """10000 numbers: their root mean square within 3 / sqrt(2 x 10000) = 2.1 %; no correlation (0.03)."""
    torch.manual_seed(1)
    network = nn.Linear(100, 100)

    noise, again = (noise_like(network, seed=2).weight.detach() for _ in range(2))

    ours = network.weight.detach()
    assert float(noise.square().mean().sqrt() / ours.square().mean().sqrt()) == pytest.approx(1, abs=0.021)
    assert abs(float(torch.corrcoef(torch.stack([ours.flatten(), noise.flatten()]))[0, 1])) < 0.03
    assert torch.equal(noise, again)


def test_who_is_away_is_not_there(pair):
    """In rounds 2 and 3 nobody answers at its port, and it offers nothing; in round 4 it is back."""
    two = pair("south=away:2-3", served=True)
    address = ("127.0.0.1", two.sites["south"].listen[1])

    two.offer(1)
    first = two.fetch(1)
    away = [two.offer(round_) for round_ in (2, 3)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=60)
    missed = two.fetch(3, seconds=2)
    nothing = two.south.receive(two.network), two.south.open_peers(), two.south.renewed()
    two.offer(4)
    back = two.fetch(4)

    assert (first is not None, missed, back is not None) == (True, None, True)
    assert away == ["", ""]
    assert nothing == (None, set(), None)


def test_a_training_continued_while_its_site_is_away_stays_away(pair):
    """The last round that was begun is 2: no courier, no server."""
    two = pair("south=away:2-3", served=True, round_=2)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", two.sites["south"].listen[1]), timeout=60)


@pytest.mark.parametrize(("fault", "meetings"), [("north=away:1", 0), ("south=away:1", 1)])
def test_a_trainer_has_the_faults_of_its_own_site(run, fault, meetings):
    """North trains; where it is the one that is away it meets nobody, says so, and finishes all the same."""

    class Short(with_faults(GossipTrainer, (fault,))):
        warmup_epochs, epochs_per_round, mutual_epochs, gate_batches = 1, 5, 1, 1

    trainer = run(Short, peer=a_little_further, epochs=3)

    assert sum(line["event"] == "met" for line in rounds(trainer)) == meetings
    assert ("simulated fault: away" in log_of(trainer)) == (meetings == 0)
    assert trainer.current_epoch == 3


def test_faults_as_they_are_written():
    """From a round to another, or to the end."""
    always, once = parse_faults(["a=garbage:5", "b=away:4-9"])

    assert [always.strikes(round_) for round_ in (4, 5, 99)] == [False, True, True]
    assert [once.strikes(round_) for round_ in (3, 4, 9, 10)] == [False, True, True, False]
    assert once == Fault("b", "away", 4, 9)


@pytest.mark.parametrize(
    "entry", ["a", "a=away", "a=away:0", "a=away:9-4", "a=ill:1", "=away:1", "a=away:1-", "a=away:x"]
)
def test_what_is_no_fault_is_refused(entry):
    """The hint names the kinds."""
    with pytest.raises(ConfigError) as refused:
        parse_faults([entry])

    assert "garbage" in refused.value.hint


def test_a_fault_needs_its_site_and_its_server():
    """A site that is not there; away, where peers read a folder that nobody can take from them."""
    with pytest.raises(ConfigError, match="no site c"):
        check_faults(["c=noise:1"], ["a", "b"], by_folder=False)
    with pytest.raises(ConfigError, match="cannot be away"):
        check_faults(["a=away:1"], ["a", "b"], by_folder=True)


def test_only_arms_that_exchange_have_faults_and_a_clock():
    """The stock arm's class knows of neither; both texts compile."""
    recipe = Recipe((), ("nnUNetTrainer",), 1, 1, 5, faults=("a=away:1",), clock=LOCK_STEP)

    stock, gossip = (
        arms.trainer_text(parse_arm(name), recipe, 1, stock)
        for name, stock in (("nnUNetTrainer", True), ("nnUNetTrainerGML", False))
    )

    assert "with_faults" not in stock and "in_step" not in stock
    assert "with_faults(Base, ('a=away:1',))" in gossip and "in_step(Base)" in gossip
    for text in (stock, gossip):
        compile(text, "arm.py", "exec")


class Slow:
    """A trainer whose peer's weights come at the third look."""

    in_lock_step = False
    own_site = SimpleNamespace(wait_seconds=5)

    def __init__(self, offered="float16", refused=False):
        self.dtype, self.looks = offered, 0
        self.exchange = SimpleNamespace(open_peers=lambda: set() if refused else {"south"})

    def begin_round(self, round_):
        self.round = round_

    def offered(self):
        return self.dtype

    def receive(self):
        self.looks += 1
        return "weights" if self.looks == 3 else None


def test_in_lock_step_a_round_waits_for_its_weights():
    """They are taken once, by the next who asks."""
    trainer = in_step(Slow)()

    trainer.begin_round(1)

    assert trainer.round == 1
    assert (trainer.looks, trainer.receive(), trainer.receive()) == (3, "weights", None)
    assert trainer.in_lock_step


@pytest.mark.parametrize("nothing", [{"offered": ""}, {"refused": True}])
def test_in_lock_step_nobody_waits_for_nothing(nothing):
    """Nothing was sent for, or the peer was refused."""
    trainer = in_step(Slow)(**nothing)

    trainer.begin_round(1)

    assert trainer.looks == 0


def test_fedavg_has_its_own_clock():
    """It waits for everybody already."""
    assert in_step(FedAvgTrainer) is FedAvgTrainer
