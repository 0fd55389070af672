"""Sites that contour, or number, classes differently, inside nnU-Net's real training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunet_kit import CONFIGURATION, WaitingTrainer, plans_of
from trainer_kit import a_little_further, log_of, rounds

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


class Watched(WaitingTrainer):
    """Keeps what the test looks at and training drops."""

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if self.visit is not None:
            self.peer_seen = self.visit.peer

    def begin_round(self, round_: int) -> None:
        self.offered = {name: t.clone() for name, t in weights.named_tensors(self.network).items()}
        super().begin_round(round_)


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


def test_an_organ_that_is_not_contoured_here_is_learnt_from_the_peer_only(run):
    """Supervised with the marginal background; the manifest claims neither contours nor Dice of it."""
    ours = run(Watched, peer=a_little_further, federation=without_mandible)

    assert isinstance(ours.loss, MarginalBackground)
    assert ours.loss.hidden.tolist() == [name == "mandible" for name in ORGANS]
    assert ours.peer_seen.missing.tolist() == [name == "mandible" for name in ORGANS]
    assert ours.peer_seen.labelled.tolist() == [name != "mandible" for name in ORGANS]
    manifest, _ = offer_of_north(ours)
    assert manifest.labelled == tuple(CONTOURED) and "mandible" not in manifest.dice
    assert all(torch.isfinite(t).all() for t in weights.named_tensors(ours.network).values())


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
