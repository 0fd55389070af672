"""Kills many processes of one site, each in the middle of one piece of work, and looks at what is left.

    python kill_process.py WORK FOLDER

FOLDER holds the files of `courier_kit.build_sites`; the number of kills is printed. A process of its own,
because it forks.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from courier_kit import FACTS, PLANS, SCHEMA
from kill_kit import killed_after, killed_before, lines_of
from state_kit import check_at_rest, ledger, visible_offers

from peer_sync import outbox
from peer_sync.agent import Agent
from peer_sync.errors import NotFoundError
from peer_sync.mailbox import TRAINS, Mailbox
from peer_sync.manifest import Manifest
from peer_sync.routes import way_to, way_to_relay
from peer_sync.site import load_site
from peer_sync.storage import read_state, sha256_of
from peer_sync.wanted import Wanted

SMALL, LARGE = 700, 8 << 20
MOMENTS = 40
FEW_LINES = 30


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

    def __init__(self, folder: Path, size_bytes: int = SMALL) -> None:
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
        self.prepare()
        self()
        self.look()
        newest = max(check_at_rest(self.site).items())[1]
        assert newest.round == self.number


class OfferingFromAnotherDisk(Offering):
    """Then moving the weights into the outbox means copying their bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LARGE)
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

    def __init__(self, folder: Path, size_bytes: int = SMALL) -> None:
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
            Wanted("south", self.offered, PLANS, SCHEMA, self.sizes).write(self.training.wanted)

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


def fatal_lines(work: Work, most: int | None = None) -> Iterator[bool]:
    """Kill before each line of the work, or before ``most`` of them; yields whether it came to that."""
    work.prepare()
    count = lines_of(work)
    chosen = range(1, count + 1)
    for line in sorted(random.Random(count).sample(chosen, most)) if most else chosen:
        work.prepare()
        yield killed_before(line, work)


def fatal_moments(work: Work) -> Iterator[bool]:
    """Kill after random times, none longer than the work takes."""
    work.prepare()
    started = time.monotonic()
    killed_after(60, work)
    chance, longest = random.Random(20261121), time.monotonic() - started
    for _ in range(MOMENTS):
        work.prepare()
        yield killed_after(chance.uniform(0, longest), work)


def _move_by_copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    source.unlink()


WORKS: dict[str, Callable[[Path], tuple[Work, Callable[[Work], Iterator[bool]]]]] = {
    "offer": lambda folder: (Offering(folder), fatal_lines),
    "offer-large": lambda folder: (OfferingFromAnotherDisk(folder), fatal_moments),
    "publish": lambda folder: (Publishing(folder), fatal_lines),
    "publish-sftp": lambda folder: (Publishing(folder), lambda work: fatal_lines(work, FEW_LINES)),
    "collect": lambda folder: (Collecting(folder), fatal_lines),
    "agent": lambda folder: (Moving(folder), fatal_lines),
    "collect-large": lambda folder: (Collecting(folder, LARGE), fatal_moments),
    "collect-sftp": lambda folder: (Collecting(folder), lambda work: fatal_lines(work, FEW_LINES)),
}


def main(name: str, folder: Path) -> None:
    """Kill as often as the work has moments, and print how often that was."""
    work, kills = WORKS[name](folder)
    count = 0
    for was_killed in kills(work):
        count += was_killed
        work.look()
    work.finish()
    print(count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
