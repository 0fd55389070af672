"""Counts the bytes that tensors hold, on any device; on the meta device without holding any."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors made by ``work`` held at once; views hold what they show.

    Example:
        >>> def work():
        ...     a = torch.empty(1000, device="meta")  # 4000 bytes, float32
        ...     b = a + 1  # 8000
        ...     del a  # 4000
        ...     return b.view(10, 100).half()  # 6000
        >>> peak_bytes(work)
        8000
    """
    meter = _Meter()
    with meter:
        work()
    return meter.peak


class _Meter(TorchDispatchMode):
    """Notes every storage that an operation makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._alive: dict[int, int] = {}
        self._bytes = 0

    def __torch_dispatch__(
        self,
        operation: Any,  # noqa: ANN401 - torch's
        types: Any,  # noqa: ANN401 - torch's
        args: Any = (),  # noqa: ANN401 - torch's
        kwargs: Any = None,  # noqa: ANN401 - torch's
    ) -> Any:  # noqa: ANN401 - torch's
        """Do the operation, and note what it made."""
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self._bytes += storage.nbytes()
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._bytes -= self._alive.pop(key, 0)
