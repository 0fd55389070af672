"""A training without network and its agent, two processes in the same folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from courier_kit import FACTS, PLANS, SCHEMA, SIZES, build_sites, offer, write_payload
from process_kit import kill_many, wait_for

from peer_sync.agent import Agent
from peer_sync.local import LocalCourier
from peer_sync.mailbox import TRAINS, Mailbox


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_agent_is_killed_anywhere(memory_path, record_property):
    """The agent (nnunet-gml sync) is killed while it collects, once before each line of code.

    The training sees whole deliveries or none, accepts each once, and the next start of the agent
    brings what is there.
    """
    build_sites(memory_path)

    kills = kill_many("agent", memory_path, 0)

    assert kills > 300
    record_property("cases", kills)


@pytest.fixture
def training(sites) -> Iterator[LocalCourier]:
    """North's courier, which touches only local folders."""
    mailbox = Mailbox(sites["north"], duties=(TRAINS,))
    courier = LocalCourier(mailbox, PLANS, SCHEMA, SIZES)
    courier.start()
    yield courier
    courier.stop()
    mailbox.close()


def bring(courier: LocalCourier, south: Mailbox) -> Path:
    """Let the training order, and the agent bring; returns the folder of the delivery."""
    offer(south)
    site = courier.mailbox.site
    courier.mailbox.wanted.unlink(missing_ok=True)
    courier.exchange(write_payload(site.folder), FACTS, ["south"])
    wait_for(courier.mailbox.wanted.exists, "order")
    agent = Agent(site)
    agent.run()
    agent.close()
    return max((site.folder / "inbox" / "south").iterdir())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no delivery": shutil.rmtree,
    "no manifest": lambda place: (place / "manifest.json").unlink(),
    "no signature": lambda place: (place / "manifest.json.sig").unlink(),
    "an empty manifest": lambda place: (place / "manifest.json").write_bytes(b""),
    "an empty signature": lambda place: (place / "manifest.json.sig").write_bytes(b""),
    "an empty note": lambda place: (place / "delivery.json").write_bytes(b""),
    "another note": lambda place: (place / "delivery.json").write_bytes(b"{}"),
    "a file": lambda place: (shutil.rmtree(place), place.write_bytes(b"")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_delivery_disappears(training, sites, damage):
    """What the agent brought is damaged or gone on the shared disk when the training looks.

    The training goes on, hands out nothing, and takes the next delivery.
    """
    south = Mailbox(sites["south"])
    DAMAGES[damage](bring(training, south))

    assert training.delivery() is None

    bring(training, south)
    assert training.delivery().manifest.sequence == 2
    south.close()
