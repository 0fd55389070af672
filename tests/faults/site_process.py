"""A site in a process of its own: mailbox and courier, told what to do by lines on standard input.

Orders: ``exchange ROUND PEER...``, ``offer ROUND``; the end of the input ends the site as a training ends.
What happens is told in JSON, one object per line, on standard output.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import sys
import threading
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from courier_kit import FACTS, PLANS, SCHEMA

from peer_sync import persistence
from peer_sync.address import Patience
from peer_sync.courier import Courier
from peer_sync.errors import PeerSyncError
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.site import Site, load_site
from peer_sync.storage import sha256_of
from peer_sync.transport import sftp

HASTE = replace(
    Patience(), connect_seconds=2, login_seconds=2, silence_seconds=1, deadline_seconds=3, rate_seconds=2
)


def weights_of(site: str, round_: int, size_bytes: int) -> bytes:
    """What a site offers in a round: the same bytes in every process."""
    return random.Random(f"{site} {round_}").randbytes(size_bytes)


def set_clock(shift_seconds: float, stopped: str) -> None:
    """Let every module of the courier see another time."""

    class Clock(datetime):
        """Wrong by a constant, or standing still."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            if stopped:
                return datetime.fromisoformat(stopped)
            return datetime.now(tz) + timedelta(seconds=shift_seconds)

    for name, module in list(sys.modules.items()):
        if name.startswith("peer_sync") and getattr(module, "datetime", None) is datetime:
            module.datetime = Clock


def tell(**event: object) -> None:
    """One line on standard output."""
    print(json.dumps(event), flush=True)


class RunningSite:
    """Mailbox and courier, used as `nnunet_gml.exchange` uses them."""

    def __init__(self, site: Site, size_bytes: int) -> None:
        self.site = site
        self.size_bytes = size_bytes
        self.mailbox = Mailbox(site)
        self.courier = Courier(self.mailbox, PLANS, SCHEMA, {"float16": size_bytes})
        self.courier.start()
        server = self.courier._server.process
        tell(started=True, server=server.pid if server else 0)

    def obey(self, order: str) -> None:
        """Do what one line says."""
        verb, round_, *rest = order.split()
        try:
            payload = self._write(int(round_))
        except OSError as error:
            tell(failed=f"our weights of round {round_} cannot be written: {error.strerror}")
            return
        facts = replace(FACTS, round=int(round_))
        if verb == "exchange":
            self.courier.exchange(payload, facts, rest)
            return
        try:
            tell(offered=self.mailbox.offer(payload, facts).sequence)
        except PeerSyncError as error:
            tell(failed=str(error))

    def look(self) -> None:
        """Take in what has come, and pass on what the courier says."""
        for message in self.courier.messages():
            tell(say=message)
        delivery = self.courier.delivery()
        if delivery is not None:
            self._take_in(delivery)

    def end(self) -> None:
        """As at the end of a training."""
        self.courier.stop()
        self.look()
        self.mailbox.close()
        tell(ended=True)

    def _write(self, round_: int) -> Path:
        payload = self.site.path.with_name(f"weights-{self.site.name}-{round_}.tmp")
        payload.write_bytes(weights_of(self.site.name, round_, self.size_bytes))
        return payload

    def _take_in(self, delivery: Delivery) -> None:
        facts = {
            "sequence": delivery.manifest.sequence,
            "round": delivery.manifest.round,
            "sha256": sha256_of(delivery.payload),
            "bytes": delivery.transferred_bytes,
            "retries": delivery.retries,
        }
        try:
            self.mailbox.accept(delivery)
        except (PeerSyncError, OSError) as error:
            tell(failed=f"cannot accept: {error}")
        else:
            tell(accepted=delivery.round, **facts)


def read_lines(orders: queue.Queue[str]) -> None:
    """Every line of the input; an empty one at its end."""
    for line in sys.stdin:
        orders.put(line)
    orders.put("")


def main() -> None:
    """Run one site until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site")
    parser.add_argument("--bytes", type=int, default=5000)
    parser.add_argument("--patient", action="store_true", help="with the limits of time of earnest")
    parser.add_argument("--clock-shift", type=float, default=0)
    parser.add_argument("--clock-stopped", default="")
    arguments = parser.parse_args()
    persistence.FIRST_WAIT_SECONDS, persistence.LONGEST_WAIT_SECONDS = 0.1, 0.4
    if not arguments.patient:
        sftp.Patience = lambda: HASTE
    if arguments.clock_shift or arguments.clock_stopped:
        set_clock(arguments.clock_shift, arguments.clock_stopped)
    site = load_site(arguments.site)
    running = RunningSite(site, arguments.bytes)
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=read_lines, args=[orders], daemon=True).start()
    while True:
        running.look()
        try:
            order = orders.get(timeout=0.02)
        except queue.Empty:
            continue
        if not order:
            break
        running.obey(order)
    running.end()


if __name__ == "__main__":
    main()
