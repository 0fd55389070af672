"""A common starting point for all sites: somebody's weights, checked, and written as tensors alone.

nnU-Net's ``-pretrained_weights`` unpickles the file that it is given. So a stranger's checkpoint is read
here as numbers only, compared with the network of our plans, and written anew: that file is safe to give.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nnunet_gml.handover.checkpoints import FINAL, MAX_BYTES, WEIGHTS, read_checkpoint
from nnunet_gml.handover.new_file import new_file
from nnunet_gml.planning.planned import Planned
from nnunet_gml.planning.planned_network import planned_network
from nnunet_gml.tensors import all_finite
from peer_sync.errors import ConfigError, quoted
from peer_sync.storage import CHUNK_BYTES, part_path

ENTRY = re.compile(rf"[\w.-]+/[\w.-]+__(?P<configuration>[\w.-]+)/fold_(?P<fold>\w+)/{re.escape(FINAL)}")
"""nnU-Net's layout of a zip: DATASET/TRAINER__PLANS__CONFIGURATION/fold_X/checkpoint_final.pth."""
NOT_TAKEN = ".seg_layers."
"""nnU-Net takes all but the layers that give the classes; these begin anew, and may have another shape."""
MAX_ENTRIES = 10_000
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises for zips that are cut short, changed, encrypted or packed in another way."""


@dataclass(frozen=True)
class StartingPoint:
    """What was written.

    Attributes:
        source: which part of the file it came from; empty for a checkpoint by itself.
        tensors: how many were taken.
        digest: SHA-256 of names, shapes and values, 64 hex digits: equal at all sites that start alike.
    """

    source: str
    tensors: int
    digest: str


def write_starting_point(source: Path, target: Path, plan: Planned, fold: str | None = None) -> StartingPoint:
    """Check somebody's weights against our plans and write them for ``-pretrained_weights``.

    Args:
        source: a zip that nnU-Net or ``nnunet-gml export`` made, or a checkpoint; of any content.
        target: a new file.
        plan: what will be trained.
        fold: which fold of a zip; None takes the first.

    Raises:
        ConfigError: ``target`` exists; ``source`` cannot be read, holds anything but tensors, numbers and
            text, holds numbers that are not finite, or is the network of other plans.
    """
    with new_file(target) as part:
        entry, weights = _weights_in(source, part.parent, plan.configuration, fold)
        wanted = _matching(weights, planned_network(plan).state_dict(), source)
        with part.open("xb") as file:
            torch.save({WEIGHTS: wanted}, file)
    return StartingPoint(entry, len(wanted), digest_of(wanted))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of names, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _weights_in(
    source: Path, scratch: Path, configuration: str, fold: str | None
) -> tuple[str, dict[str, Tensor]]:
    if source.suffix != ".zip":
        return "", read_checkpoint(source)[WEIGHTS]
    part = part_path(scratch)
    try:
        with zipfile.ZipFile(source) as archive:
            entry = _entry(archive, source, configuration, fold)
            _extract(archive, entry, part)
        return entry.filename, read_checkpoint(part)[WEIGHTS]
    except OSError as error:
        raise ConfigError(
            f"cannot unpack {source} in {scratch}: {error.strerror or error}", "check path, rights and space"
        ) from error
    except DAMAGED as error:
        raise ConfigError(f"{source} is not a whole zip: {quoted(error)}", "fetch it again") from error
    finally:
        part.unlink(missing_ok=True)


def _entry(archive: zipfile.ZipFile, source: Path, configuration: str, fold: str | None) -> zipfile.ZipInfo:
    """The checkpoint to take: of our configuration if the zip has it, else of its only one."""
    listed = archive.infolist()[:MAX_ENTRIES]
    found = [(match, info) for info in listed if (match := ENTRY.fullmatch(info.filename))]
    configurations = {match["configuration"] for match, _ in found}
    chosen = configuration if configuration in configurations or len(configurations) != 1 else None
    fitting = [
        info
        for match, info in found
        if chosen in (None, match["configuration"]) and fold in (None, match["fold"])
    ]
    if not fitting:
        names = ", ".join(quoted(info.filename) for _, info in found[:20]) or f"no {FINAL}"
        raise ConfigError(
            f"{source} has no fold {fold or 'at all'} of configuration {configuration}, but {names}",
            "name another fold with --fold, or train the configuration that the zip has",
        )
    return min(fitting, key=lambda info: info.filename)


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Unpack one file, whatever the zip says its size is."""
    with archive.open(entry) as packed, target.open("xb") as file:
        while chunk := packed.read(CHUNK_BYTES):
            if file.tell() + len(chunk) > MAX_BYTES:
                raise ConfigError(f"{quoted(entry.filename)} is larger than {MAX_BYTES} bytes unpacked")
            file.write(chunk)


def _matching(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path
) -> dict[str, Tensor]:
    """The tensors that nnU-Net will take, with the names, shapes and types of our own network."""
    wanted: dict[str, Tensor] = {}
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    for name, own in expected.items():
        if NOT_TAKEN in name:
            continue
        found = weights.get(name)
        if found is None or found.shape != own.shape:
            shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise ConfigError(
                f"{source}: tensor {name} is {shape}, but our plans expect {tuple(own.shape)}",
                "the weights belong to other plans; nnunet-gml plans adopt --file takes a zip's plans.json",
            )
        key = found.data_ptr(), found.shape  # nnU-Net lists a tensor under up to four names
        if key not in copies:
            copies[key] = found.to(own.dtype).clone(memory_format=torch.contiguous_format)
        wanted[name] = copies[key]
    if not all_finite(wanted):
        raise ConfigError(f"{source} holds weights that are NaN or infinite", "take another checkpoint")
    return wanted
