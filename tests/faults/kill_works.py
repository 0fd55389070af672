"""What one process of a site does from start to end, and what must be true after it was killed."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from courier_kit import FACTS, PLANS, SCHEMA, offer, republish
from state_kit import check_at_rest, ledger, visible_offers

from peer_sync import outbox
from peer_sync.agent import Agent
from peer_sync.errors import NotFoundError, RejectedError
from peer_sync.mailbox import TRAINS, Mailbox
from peer_sync.manifest import Manifest
from peer_sync.outbox import KEPT_OFFERS
from peer_sync.quarantine import KEPT_REFUSALS
from peer_sync.routes import way_to, way_to_relay
from peer_sync.site import load_site
from peer_sync.storage import read_state, sha256_of
from peer_sync.wanted import Wanted

SMALL_BYTES, LARGE_BYTES = 700, 8 << 20


class Work(Protocol):
    """Something that a process does, to be killed while it does it."""

    def prepare(self) -> None:
        """Before each process: give it something to do."""

    def __call__(self) -> None:
        """What a process does, from start to end."""

    def look(self) -> None:
        """What must be true after each kill, before the next start."""

    def finish(self) -> None:
        """What must be true after the last, with one more process that nobody kills."""


class Offering:
    """South offers other weights in every process; what peers saw under a number never changes."""

    def __init__(self, folder: Path, size_bytes: int = SMALL_BYTES) -> None:
        self.site = load_site(folder / "south.toml")
        self.size_bytes = size_bytes
        self.payload = folder / "payload.tmp"
        self.seen: dict[int, Manifest] = {}
        self.number = 0

    def prepare(self) -> None:
        """Weights that no process before had."""
        self.number += 1
        self.payload.write_bytes(self.number.to_bytes(4, "big") * (self.size_bytes // 4))

    def __call__(self) -> None:
        """Start, offer, end."""
        mailbox = Mailbox(self.site)
        mailbox.offer(self.payload, replace(FACTS, round=self.number))
        mailbox.close()

    def look(self) -> None:
        """Every visible offer is whole; a number stands for the same as ever; no weights are out twice."""
        self.remember(visible_offers(self.site))

    def remember(self, visible: dict[int, Manifest]) -> None:
        """Compare with what was visible before."""
        highest = max(self.seen, default=0)
        for sequence, manifest in visible.items():
            assert sequence in self.seen or sequence > highest, (sequence, highest)
            assert self.seen.setdefault(sequence, manifest) == manifest
        assert len({manifest.sha256 for manifest in self.seen.values()}) == len(self.seen)

    def finish(self) -> None:
        """The next start cleans up, and its offer is seen."""
        Mailbox(self.site).close()
        assert len(check_at_rest(self.site)) <= KEPT_OFFERS
        self.prepare()
        self()
        self.look()
        newest = max(check_at_rest(self.site).items())[1]
        assert newest.round == self.number


class OfferingFromAnotherDisk(Offering):
    """Then moving the weights into the outbox means copying their bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LARGE_BYTES)
        outbox.shutil.move = _move_by_copy


class Publishing(Offering):
    """South offers and copies its outbox to a relay; peers read there."""

    def __call__(self) -> None:
        """Start, offer, publish, end."""
        mailbox, relay = Mailbox(self.site), way_to_relay(self.site)
        if self.payload.exists():
            mailbox.offer(self.payload, replace(FACTS, round=self.number))
        mailbox.publish(relay)
        relay.close()
        mailbox.close()

    @property
    def there(self) -> Path:
        """The relay's folder on this machine."""
        return self.site.path.parent / "relay"

    def look(self) -> None:
        """What peers see there is whole, too."""
        self.remember(visible_offers(self.site, self.there))

    def finish(self) -> None:
        """The next start makes outbox and relay equal."""
        super().finish()
        assert check_at_rest(self.site) == visible_offers(self.site, self.there)
        assert not list(self.there.glob(".part-*"))


class Collecting:
    """North collects and accepts what south offers; south offers again once it was accepted."""

    def __init__(self, folder: Path, size_bytes: int = SMALL_BYTES) -> None:
        self.site = load_site(folder / "north.toml")
        self.south = Mailbox(load_site(folder / "south.toml"))
        self.size_bytes = size_bytes
        self.offered = 0

    def prepare(self) -> None:
        """Something new to collect, if the last was accepted."""
        if self.accepted() == self.offered:
            payload = self.south.site.folder / "payload.tmp"
            payload.write_bytes(self.offered.to_bytes(4, "big") * (self.size_bytes // 4))
            self.offered = self.south.offer(payload, FACTS).sequence

    def __call__(self) -> None:
        """Start, collect, accept, end."""
        mailbox, transport = Mailbox(self.site), way_to(self.site, "south")
        sizes = {"float16": self.size_bytes}
        try:
            delivery = mailbox.collect("south", transport, PLANS, SCHEMA, sizes, round=1)
            assert sha256_of(delivery.payload) == delivery.manifest.sha256
            mailbox.accept(delivery)
        except NotFoundError:
            assert mailbox.last_sequence("south") == self.offered
        finally:
            transport.close()
        mailbox.close()

    def accepted(self) -> int:
        """The sequence that north has accepted, as its state has it."""
        return int(read_state(self.site.folder / "state" / "peer-south.json").get("accepted", 0))

    def look(self) -> None:
        """North accepted this offer or the one before, and each at most once."""
        assert self.accepted() in (self.offered, self.offered - 1)
        lines = [line["sequence"] for line in ledger(self.site, verdict="accepted")]
        assert lines == sorted(set(lines))

    def finish(self) -> None:
        """The next start takes what is there, and nothing half is left."""
        self.prepare()
        self()
        assert self.accepted() == self.offered
        check_at_rest(self.site)


class Refusing(Collecting):
    """North collects what it must refuse: south has other plans."""

    def prepare(self) -> None:
        """A badly made, well signed offer, under a new number from time to time."""
        if self.offered == 0 or len(self.refused()) % 5 == 4:
            manifest = offer(self.south)
            republish(self.south, replace(manifest, plans_digest="e" * 64))
            self.offered = manifest.sequence

    def __call__(self) -> None:
        """Start, collect, be disappointed, end."""
        mailbox, transport = Mailbox(self.site), way_to(self.site, "south")
        with suppress(RejectedError):
            mailbox.collect("south", transport, PLANS, SCHEMA, {"float16": self.size_bytes}, round=1)
            raise AssertionError("it was accepted")
        mailbox.close()

    def refused(self) -> list[Path]:
        """What is in quarantine."""
        return list((self.site.folder / "quarantine").glob("south/*"))

    def look(self) -> None:
        """Nothing was accepted; the next refusal that comes to its end removes the oldest."""
        assert self.accepted() == 0
        ledger(self.site)

    def finish(self) -> None:
        """The next start refuses it by its rule, with the reason beside it."""
        self()
        newest = max(self.refused())
        assert json.loads((newest / "reason.json").read_text())["rule"] == "plans"
        assert len(self.refused()) <= KEPT_REFUSALS
        check_at_rest(self.site)


class Moving(Collecting):
    """North's agent collects what north's training wants; the training accepts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.training = Mailbox(self.site, duties=(TRAINS,))
        self.sizes = {"float16": self.size_bytes}

    def prepare(self) -> None:
        """Something new to collect, and an order for it, if the last was accepted."""
        if self.accepted() == self.offered:
            super().prepare()
            Wanted(("south",), self.offered, PLANS, SCHEMA, self.sizes).write(self.training.wanted)

    def __call__(self) -> None:
        """Start, move what there is to move, end."""
        agent = Agent(self.site)
        assert all(step.succeeded for step in agent.run())
        agent.close()

    def look(self) -> None:
        """The training sees a whole delivery, and accepts it, or none."""
        delivery = self.training.waiting("south", PLANS, SCHEMA, self.sizes)
        if delivery is not None:
            assert sha256_of(delivery.payload) == delivery.manifest.sha256
            self.training.accept(delivery)
        super().look()

    def finish(self) -> None:
        """The next start brings what is there, and nothing half is left."""
        self.prepare()
        self()
        self.look()
        assert self.accepted() == self.offered
        check_at_rest(self.site)


def _move_by_copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    source.unlink()
