"""The processes of one training (nnU-Net's ``-num_gpus``): rank 0 talks to other sites, the rest follow.

Without torch.distributed, or with one process, everything is answered at once from what this process has.
With several, every method is a collective: all ranks must call it, in the same order.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Ranks:
    """What the processes of one training agree on; they trust each other, other sites never reach this."""

    @property
    def is_first(self) -> bool:
        """This process is the one that writes files and meets peers."""
        return not _are_several() or distributed.get_rank() == 0

    def share(self, value: T) -> T:
        """Rank 0's value, at every rank; the others' values are dropped.

        Any object that can be pickled; tensors in it must be on the CPU, because a GPU's would arrive on
        rank 0's GPU.
        """
        if not _are_several():
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def share_tensors(
        self, tensors: Mapping[str, Tensor] | None, like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Rank 0's tensors, at every rank.

        Args:
            tensors: at rank 0; ignored at the others, which may give None.
            like: this rank's tensors of the same names and shapes, whose types the result has.

        Returns:
            Several ranks: new tensors on the device on which ranks talk. One: the tensors themselves.

        Raises:
            ValueError: rank 0 has nothing to share.
        """
        if self.is_first and tensors is None:
            raise ValueError("rank 0 must have the tensors that it shares")
        if not _are_several():
            return dict(tensors or {})
        device, shared = _device(), {}
        for name, own in like.items():
            if self.is_first and tensors is not None:
                shared[name] = tensors[name].to(device, own.dtype, copy=True).contiguous()
            else:
                shared[name] = torch.empty(own.shape, dtype=own.dtype, device=device)
            distributed.broadcast(shared[name], src=0)
        return shared

    def all_agree(self, flag: bool) -> bool:
        """True where it is true at every rank."""
        if not _are_several():
            return flag
        vote = torch.tensor(int(flag), device=_device())
        distributed.all_reduce(vote, op=distributed.ReduceOp.MIN)
        return bool(vote)


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _device() -> torch.device:
    """NCCL moves only GPU memory; nnU-Net gives each rank a GPU of its own."""
    is_nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")
