"""One of two processes of one training, as ``-num_gpus 2`` starts them, on CPUs and with gloo."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from nnunet_kit import WaitingTrainer, build_trainer, seed_everything
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nnunet_gml import trust, weights

RENEWS = "RENEWS"
"""Variable of a training whose federation.toml changes in its first epoch; no peer is met then."""


class TwoProcesses(WaitingTrainer):
    """nnU-Net takes it for granted that several processes have a GPU each; here they have none."""

    def initialize(self) -> None:
        self.device, self.grad_scaler = torch.device("cpu"), None
        super().initialize()

    def on_epoch_start(self) -> None:
        if RENEWS not in os.environ:
            super().on_epoch_start()
            return
        if self.current_epoch == 0 and self.ranks.is_first:
            path = self.own_site.federation.path
            path.write_text(path.read_text().replace("seed = 7", "version = 2\nseed = 7"))
        super(WaitingTrainer, self).on_epoch_start()


def main(data: Path, rank: int, rendezvous: Path) -> None:
    """Train three epochs and print what this process has in the end."""
    trust.LEAST_DICE = -1.0
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    without_gpu = lambda module, device_ids: DistributedDataParallel(module)  # noqa: E731
    with patch("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.DDP", without_gpu):
        trainer = build_trainer(TwoProcesses, data, epochs=3)
        seed_everything(rank)
        trainer.run_training()
    digest = hashlib.sha256()
    for tensor in weights.named_tensors(trainer.network).values():
        digest.update(tensor.numpy().tobytes())
    facts = {
        "rank": rank,
        "weights": digest.hexdigest(),
        "exchanges": hasattr(trainer, "exchange"),
        "federation": trainer.own_site.federation.version,
    }
    Path(os.environ["RANKS_OUT"], f"{rank}.json").write_text(json.dumps(facts))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
