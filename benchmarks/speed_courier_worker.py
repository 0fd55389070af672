"""One site's courier in a process of its own, without a training; `speed_couriers` begins its rounds.

The first argument is a JSON object (site, payload, dtype, wait_seconds). Each line on standard input is the
number of a round; each is answered with a JSON object when the peer's weights are here, or the wait is over.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from peer_sync.courier import Courier
from peer_sync.gossip import draw_peer
from peer_sync.mailbox import Delivery, Mailbox
from peer_sync.manifest import Facts
from peer_sync.site import load_site

POLL_SECONDS = 0.05
SCHEMA = "b" * 64


def main() -> int:
    """Serve, offer and collect until standard input closes."""
    settings = json.loads(sys.argv[1])
    site, payload = load_site(settings["site"]), Path(settings["payload"])
    sizes = {settings["dtype"]: payload.stat().st_size}
    with closing(Mailbox(site)) as mailbox:
        courier = Courier(mailbox, site.federation.plans_digest, SCHEMA, sizes)
        courier.start()
        answer({"ready": True})
        for line in sys.stdin:
            answer(one_round(courier, payload, settings, int(line)))
        courier.stop()
    return 0


def one_round(courier: Courier, payload: Path, settings: dict[str, Any], number: int) -> dict[str, Any]:
    """Offer the payload, collect from the peer that the product's schedule draws, and accept."""
    mailbox, started = courier.mailbox, time.monotonic()
    federation, name = mailbox.site.federation, mailbox.site.name
    offered = mailbox.state / f".part-round-{number}"
    shutil.copyfile(payload, offered)
    peer = draw_peer(federation.seed, name, number, federation.peers_of(name))
    facts = Facts(number, number, federation.plans_digest, SCHEMA, settings["dtype"], ("organ",), 1, None)
    courier.exchange(offered, facts, (peer,))
    delivery = wait_for_delivery(courier, started + settings["wait_seconds"])
    if delivery is not None:
        mailbox.accept(delivery)
    seconds = time.monotonic() - started
    return {"peer": peer, "pulled": delivery is not None, "seconds": seconds, "said": courier.messages()}


def wait_for_delivery(courier: Courier, deadline: float) -> Delivery | None:
    """The next delivery; None when the time is over."""
    while (delivery := courier.delivery()) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return delivery


def answer(facts: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
