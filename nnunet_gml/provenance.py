"""Which peer's weights touched a training, and when: read from its list of rounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_gml.explanation import read_records

LEARNT, AVERAGED = "learnt with", "averaged"


@dataclass(frozen=True)
class Touch:
    """One offer of a peer that changed our weights.

    Attributes:
        peer: whose weights.
        round: our round.
        sequence: the number of the peer's offer; 0 if the list does not say.
        way: `LEARNT` or `AVERAGED`.
        first_epoch: counted from 0 as in nnU-Net's log; averaged weights came before it began.
        last_epoch: with the peer, inclusive; None if nobody wrote down that it left: the training was
            killed then, or still runs.
        share: of the peer's weights that was taken over, 0 to 1.
    """

    peer: str
    round: int
    sequence: int
    way: str
    first_epoch: int
    last_epoch: int | None
    share: float


def touches(run: Path) -> list[Touch]:
    """All offers that changed the weights of one run, in the order in which they came.

    Peers that were only compared with us, because they were trusted in no class, are not among them.
    A beginning of a round that was lost in a kill stays in the list: better one too many.
    """
    return _touches(read_records(run))


def _touches(records: Iterable[dict[str, Any]]) -> list[Touch]:
    found: dict[tuple[int, str, int], Touch] = {}
    for record in records:
        key = (record["round"], record["peer"], int(record.get("sequence") or 0))
        event = record.get("event")
        if event == "left":
            if key in found:
                found[key] = _ended(found[key], record)
        elif event == "averaged" or record.get("used", True):
            found[key] = _begun(key, record, event == "averaged")
    return list(found.values())


def _begun(key: tuple[int, str, int], record: dict[str, Any], is_average: bool) -> Touch:
    round_, peer, sequence = key
    epoch = int(record.get("epoch") or 0)
    last, way = (epoch, AVERAGED) if is_average else (None, LEARNT)
    return Touch(peer, round_, sequence, way, epoch, last, float(record.get("merged") or 0))


def _ended(touch: Touch, record: dict[str, Any]) -> Touch:
    """With the last epoch that was begun with the peer."""
    epochs = int(record.get("epochs") or 0)
    last = touch.first_epoch + max(0, epochs - 1)
    return replace(touch, last_epoch=last, share=float(record.get("merged") or 0))
