"""What a shared model says about itself: who took part, with what, and how good it was; no case, no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = "nnunet-gml model card 1"


@dataclass(frozen=True)
class FoldCard:
    """One trained fold.

    Attributes:
        fold: such as ``0`` or ``all``.
        epochs: how long it was trained.
        rounds: of gossip in which a peer's weights were used.
        peers: for each peer the number of rounds in which its weights were used.
        dice: mean Dice per class of nnU-Net's validation; None where withheld, or a class had no value.
    """

    fold: str
    epochs: int
    rounds: int
    peers: Mapping[str, int]
    dice: Mapping[str, float | None] | None


@dataclass(frozen=True)
class ModelCard:
    """All that the card says.

    Attributes:
        dataset, trainer, plans, configuration: as nnU-Net's folders are called.
        classes: names of the foreground classes or regions.
        plans_digest: of the plans in the zip, 64 hex digits.
        site: where it was trained; empty if that is not known.
        federation: its name; empty if that is not known.
        federation_version: of its file; 0 if that is not known.
        federation_digest: of its file, as the checkpoint has it; empty without a federation.
        versions: of the software that wrote the zip.
        folds: the trained folds.
    """

    dataset: str
    trainer: str
    plans: str
    configuration: str
    classes: tuple[str, ...]
    plans_digest: str
    site: str
    federation: str
    federation_version: int
    federation_digest: str
    versions: Mapping[str, str]
    folds: tuple[FoldCard, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites whose images or weights the model has met itself, sorted."""
        found = {peer for fold in self.folds for peer in fold.peers} | ({self.site} - {""})
        return tuple(sorted(found))

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        return {"format": FORMAT, **asdict(self), "sites": list(self.sites)}

    def to_markdown(self) -> str:
        """The same for people."""
        return "\n".join(
            [*self._head(), *self._origin(), *self._folds(), *self._software(), *self._use(), ""]
        )

    def _head(self) -> list[str]:
        return [
            f"# {self.dataset}, {self.configuration}",
            "",
            f"An nnU-Net trained with {self.trainer} on plans {self.plans} (digest {self.plans_digest}).",
            "",
            f"Classes: {', '.join(self.classes)}.",
            "",
        ]

    def _origin(self) -> list[str]:
        if not self.federation_digest:
            return ["Trained at one site, without a federation.", ""]
        version = f", version {self.federation_version}" if self.federation_version else ""
        return [
            "## Where it comes from",
            "",
            f"- Federation: {self.federation or 'name not known'}{version}",
            f"- Digest of its federation.toml: {self.federation_digest}",
            f"- Trained at site: {self.site or 'not known'}",
            f"- Sites whose images or weights it has met: {', '.join(self.sites) or 'not known'}; their "
            "weights may in turn have learnt from other sites of the federation",
            "",
        ]

    def _folds(self) -> list[str]:
        lines = ["## Folds", "", "| fold | epochs | rounds | peers (rounds) |", "|---|---|---|---|"]
        for fold in self.folds:
            peers = ", ".join(f"{peer} ({count})" for peer, count in sorted(fold.peers.items()))
            lines.append(f"| {fold.fold} | {fold.epochs} | {fold.rounds} | {peers or 'none'} |")
        return [*lines, "", *self._dice()]

    def _dice(self) -> list[str]:
        shown = [fold for fold in self.folds if fold.dice is not None]
        if not shown:
            return ["Dice of the validation: withheld.", ""]
        names = [f"fold {fold.fold}" for fold in shown]
        lines = ["Mean Dice of nnU-Net's validation, on the training site's own cases:", ""]
        lines += [f"| class | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for name in self.classes:
            values = (_number(fold.dice.get(name)) for fold in shown if fold.dice is not None)
            lines.append(f"| {name} | {' | '.join(values)} |")
        return [*lines, ""]

    def _software(self) -> list[str]:
        return ["## Software", "", *(f"- {name} {version}" for name, version in self.versions.items()), ""]

    def _use(self) -> list[str]:
        folds = " ".join(fold.fold for fold in self.folds)
        return [
            "## Use",
            "",
            "```sh",
            "nnUNetv2_install_pretrained_model_from_zip FILE.zip",
            f"nnUNetv2_predict -i IMAGES -o OUT -d {self.dataset} -c {self.configuration} "
            f"-tr {self.trainer} -p {self.plans} -f {folds}",
            "```",
            "",
            "Weights can reveal something of the images they were trained on. Pass them on only as all sites "
            "named above allow it.",
        ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
