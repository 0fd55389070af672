"""A training at one site: whose it is, what is contoured there, and how classes are numbered."""

import os
import sys
from typing import Any, NoReturn

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_gml import channels, gate, weights
from nnunet_gml.partial_labels import MarginalBackground
from nnunet_gml.planning.plan_documents import agree
from nnunet_gml.planning.plans import class_names, labelled_by
from peer_sync.errors import ConfigError
from peer_sync.site import SITE_VARIABLE, Site, site_from_environment


class SiteTrainer(nnUNetTrainer):
    """nnU-Net with the settings of its site: shared initial weights, own contours, own numbers of classes.

    Where nothing is contoured otherwise than in the rest of the federation it trains as stock nnU-Net.
    """

    network: nn.Module
    grad_scaler: torch.amp.GradScaler | None
    site: Site | None = None
    channel_order: channels.Order | None = None
    """For each class of the federation its place here; None: the same."""
    plans_digest: str
    """Of this training's plans: the federation's, once that has agreed on one."""

    def initialize(self) -> None:
        """Build network, optimiser and loss as nnU-Net does, from initial weights that all sites share."""
        self.classes, self.plans_digest = class_names(self.dataset_json), ""
        self.site = self._load_site()
        if self.site is None:
            super().initialize()
        else:
            self._check_agreement(self.site)
            with gate.randomness_of(self.site.federation.seed, "initial weights"):
                super().initialize()
            self._order_channels(self.site)

    @property
    def own_site(self) -> Site:
        """This site's settings, in a training."""
        assert self.site is not None, "only a validation runs without a site"
        return self.site

    @property
    def labelled_here(self) -> Tensor:
        """``(C,)``, bool: the classes that we contour."""
        return self.labelled_at(self.own_site.name)

    def labelled_at(self, site: str) -> Tensor:
        """``(C,)``, bool: the classes that a site contours."""
        names = labelled_by(self.own_site.federation.member(site), self.classes)
        return torch.tensor([name in names for name in self.classes])

    def is_peer(self, site: str) -> bool:
        """Whether a site is in our federation, and is not our own."""
        return site in self.own_site.federation.peers_of(self.own_site.name)

    def _build_loss(self) -> Any:  # noqa: ANN401 - nnU-Net's, not typed
        """nnU-Net's loss; where a class is never contoured here, it may hide in the background."""
        loss = super()._build_loss()
        self.deep_supervision_weights: tuple[float, ...] = (
            tuple(map(float, loss.weight_factors)) if isinstance(loss, DeepSupervisionWrapper) else (1.0,)
        )
        if self.site is None or bool(self.labelled_here.all()):
            return loss
        manager = self.label_manager
        return MarginalBackground(
            loss, torch.ones(len(self.classes), dtype=torch.bool), manager.has_regions, manager.ignore_label
        )

    @property
    def learnt_from_others(self) -> Tensor:
        """``(C,)``, bool: the classes that are not contoured here and that peers have taught us."""
        if isinstance(self.loss, MarginalBackground):
            return self.loss.hidden
        return torch.zeros(len(self.classes), dtype=torch.bool)

    def let_hide(self, classes: Tensor) -> None:
        """What others have taught us and is not contoured here may be in the background from now on.

        Before, it is background, as for stock nnU-Net: a class that nobody has taught would be anywhere.

        Args:
            classes: ``(C,)``, bool.
        """
        if isinstance(self.loss, MarginalBackground):
            self.loss.let_hide(classes & ~self.labelled_here)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's; a class that is not contoured here has no Dice, rather than one of 0."""
        outputs: dict[str, Any] = super().validation_step(batch)
        if isinstance(self.loss, MarginalBackground):
            contoured = self.labelled_here.numpy()
            for name in ("tp_hard", "fp_hard", "fn_hard"):
                outputs[name] = outputs[name] * contoured
        return outputs

    def say(self, sentence: str) -> None:
        """Write a sentence into the training log, as everything from here begins."""
        self.print_to_log_file(f"nnunet-gml: {sentence}")

    def _check_agreement(self, site: Site) -> None:
        try:
            self.plans_digest = agree(
                site, self.plans_manager.plans, self.dataset_json, self.configuration_name
            )
        except ConfigError as error:
            self.stop(error)

    def _order_channels(self, site: Site) -> None:
        """Give every class the initial output weights that it has at the other sites."""
        self.channel_order = channels.class_order(self.classes, site.federation.classes)
        if self.channel_order is not None:
            tensors = weights.named_tensors(self.network)
            layers = channels.output_layers(tensors)
            weights.put(channels.from_federation(tensors, layers, self.channel_order, True), self.network)

    def _load_site(self) -> Site | None:
        """This site's settings; None where there are none, which is enough for ``--val``."""
        try:
            return site_from_environment() if os.environ.get(SITE_VARIABLE) else None
        except ConfigError as error:
            self.stop(error)

    def stop(self, error: ConfigError) -> NoReturn:
        """End this training before it begins: what is wrong, what to do, exit code 2."""
        self.say(f"error: {error}")
        if error.hint:
            self.say(f"hint: {error.hint}")
        sys.exit(2)
