"""Sites that contour, or number, classes differently, inside nnU-Net's real training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunet_kit import CONFIGURATION, WaitingTrainer, plans_of
from trainer_kit import a_little_further, copy_of, log_of, rounds

from nnunet_gml import weights
from nnunet_gml.partial_labels import MarginalBackground
from nnunet_gml.phantom import ORGANS
from nnunet_gml.planning.plans import plans_digest
from peer_sync.manifest import parse

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)

CONTOURED = [name for name in ORGANS if name != "mandible"]
MANDIBLE = list(ORGANS).index("mandible")
OTHER_ORDER = [*reversed(ORGANS)]
WHOLE, CORE = 0, 1
"""Channels of the regions "organs" and, inside it, "bone"."""


class Watched(WaitingTrainer):
    """Keeps what the test looks at and training drops."""

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if self.visit is not None:
            self.peer_seen, self.stay_seen = self.visit.peer, self.visit.stay

    def begin_round(self, round_: int) -> None:
        self.offered = copy_of(self.network)
        super().begin_round(round_)


class InsideTheWhole(Watched):
    """Every patch lies in a region that is contoured here; the core in it is not."""

    distillation_weight, ramp_rounds, merge = 1.0, 1, "none"
    contoured = 0

    def initialize(self) -> None:
        self.initial_lr = 0.1
        super().initialize()

    def train_step(self, batch: dict) -> dict:
        for scale in batch["target"]:
            scale[:, WHOLE], scale[:, CORE] = 1, 0
        if self.visit is not None:
            if self.contoured == 0:
                self.first, self.before = batch, self.core_in(batch)
            self.contoured += int(self.whole_in(batch).sum())
        return super().train_step(batch)

    def whole_in(self, batch: dict) -> torch.Tensor:
        """All but what the ignore label marks."""
        return batch["target"][0][:, -1] == 0

    def core_in(self, batch: dict) -> float:
        """Mean probability of the core where the whole is contoured."""
        with torch.no_grad():
            return float(self.network(batch["data"])[0][:, CORE].sigmoid()[self.whole_in(batch)].mean())


def without_bone(text: str, _) -> str:
    """North contours the whole, but not the core."""
    head, north, south = text.split("[[sites]]")
    return "[[sites]]".join([head, f'{north}\nlabelled = ["organs", "paired"]\n', south])


def sure_of_the_core(network: torch.nn.Module) -> None:
    """Sees it everywhere."""
    a_little_further(network)
    weights.named_tensors(network)["decoder.seg_layers.1.bias"][CORE] = 9.0


def without_mandible(text: str, data: object) -> str:
    """North contours all but the mandible."""
    head, north, south = text.split("[[sites]]")
    return "[[sites]]".join([head, f"{north}\nlabelled = {CONTOURED}\n".replace("'", '"'), south])


def nobody_has_the_mandible(text: str, _) -> str:
    """Both sites contour all but the mandible."""
    return text.replace("[[sites]]", f"[[sites]]\nlabelled = {CONTOURED}".replace("'", '"'))


def by_name(text: str, data) -> str:
    """The federation lists the classes in an order of its own."""
    found, named = (plans_digest(*plans_of(data), CONFIGURATION, by_name=name) for name in (False, True))
    classes = str(OTHER_ORDER).replace("'", '"')
    return f"classes = {classes}\n{text.replace(found, named)}"


def offer_of_north(trainer) -> tuple:
    """Manifest and weights that north has offered, as they travel."""
    outbox = trainer.exchange.site.folder / "outbox"
    (path,) = outbox.glob("*.json")
    manifest = parse(path.read_bytes())
    return manifest, weights.read(outbox / manifest.payload, trainer.network, manifest.dtype)[0]


def test_an_organ_that_is_not_contoured_here_is_left_to_the_peer(run):
    """Supervised with the marginal background; the manifest claims neither contours nor Dice of it."""
    ours = run(Watched, peer=a_little_further, federation=without_mandible)

    assert isinstance(ours.loss, MarginalBackground)
    assert ours.loss.hidden.tolist() == [name == "mandible" for name in ORGANS]
    assert ours.peer_seen.missing.tolist() == [name == "mandible" for name in ORGANS]
    assert ours.peer_seen.labelled.tolist() == [name != "mandible" for name in ORGANS]
    manifest, _ = offer_of_north(ours)
    assert manifest.labelled == tuple(CONTOURED) and "mandible" not in manifest.dice
    assert all(torch.isfinite(t).all() for t in weights.named_tensors(ours.network).values())


def test_a_region_inside_a_contoured_one_is_learnt_from_the_peer(run):
    """The missing core's mask is every voxel of the whole, step after step, and there the core comes up."""
    ours = run(InsideTheWhole, "regions", peer=sure_of_the_core, epochs=8, federation=without_bone)

    assert ours.peer_seen.missing.tolist() == [False, True, False]
    assert ours.stay_seen.mask_voxels[CORE] == ours.contoured > 0
    assert ours.before < 0.5 and ours.core_in(ours.first) > 0.7


def test_an_organ_that_nobody_has_taught_yet_is_background(run):
    """Until a peer is trusted in it, supervision is stock nnU-Net's: it would be anywhere otherwise."""
    ours = run(type("Alone", (Watched,), {"warmup_epochs": 10}), federation=without_mandible)

    assert isinstance(ours.loss, MarginalBackground) and not ours.loss.hidden.any()


@pytest.mark.parametrize(("federation", "share"), [(without_mandible, 1.0), (nobody_has_the_mandible, 0.0)])
def test_what_others_taught_us_is_not_given_up_in_a_merge(run, monkeypatch, federation, share):
    """All of a better peer's weights, but none of one whose site does not contour what we have learnt."""
    monkeypatch.setattr("nnunet_gml.merging.MARGIN", -2.0)

    class Taught(Watched):
        merge = "best"
        mutual_epochs = 1

        def prepare(self) -> None:
            super().prepare()
            self.let_hide(torch.ones(len(self.classes), dtype=torch.bool))

    ours = run(Taught, peer=a_little_further, federation=federation)

    assert next(line["merged"] for line in rounds(ours) if line["event"] == "left") == share


def test_an_organ_that_is_not_contoured_here_costs_no_dice(run):
    """nnU-Net's Dice of it is nan, not 0, so that the best checkpoint is not the one without the organ."""
    ours = run(Watched, peer=a_little_further, federation=without_mandible)

    dice = ours.logger.get_value("dice_per_class_or_region", step=-1)
    assert [bool(np.isnan(value)) for value in dice] == [name == "mandible" for name in ORGANS]


def test_trust_in_an_organ_that_is_not_contoured_here_is_the_peers_word_at_most_half(run):
    """South declares Dice 0.5 for every organ; the mandible cannot be checked here, the others can."""
    ours = run(Watched, peer=a_little_further, federation=without_mandible)

    assert ours.peer_seen.trust[MANDIBLE] == 0.5
    assert "mandible 0.50" in log_of(ours)


def test_weights_travel_in_the_federations_order_of_classes(run):
    """The segmentation layers' rows are the reversed ones, background first; all else is as it is here."""
    ours = run(Watched, peer=a_little_further, federation=by_name)

    _, travelled = offer_of_north(ours)
    order = [0, *(1 + list(ORGANS).index(name) for name in OTHER_ORDER)]
    for name, tensor in ours.offered.items():
        expected = tensor[order] if name.startswith("decoder.seg_layers.") else tensor
        assert torch.equal(travelled[name], expected.half().float()), name
    assert rounds(ours)[0]["used"]
