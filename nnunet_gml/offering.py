"""Our weights on their way into a file: training waits until they are copied, not until they are written."""

from collections.abc import Callable, Mapping
from threading import Thread

import torch
from torch import Tensor, nn

from nnunet_gml.tensors import named_tensors


class Offering:
    """Hands copies of a network's tensors to a writer, in a thread.

    From a CUDA device the copies go into page-locked memory, behind the work that is queued there and before
    the next step: neither processor waits for the other.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._thread = Thread()
        self._written = ""

    def begin(
        self,
        network: nn.Module,
        write: Callable[[Mapping[str, Tensor]], str],
        failed: Callable[[Exception], None],
    ) -> None:
        """Copy, and return while ``write`` is at work.

        Args:
            network: ours, of the same shapes each time; it may change as soon as this returns.
            write: given copies of `named_tensors`, on the CPU; returns the type it has written.
            failed: told, in the thread, what ``write`` raises; then nothing was written.
        """
        self.written()
        settle = self._copy(named_tensors(network))

        def run() -> None:
            try:
                settle()
                self._written = write(self._copies)
            except Exception as error:
                failed(error)

        self._written = ""
        # Not a daemon: torch at work in one aborts a process that is about to end.
        self._thread = Thread(target=run, name="nnunet_gml offering")
        self._thread.start()

    def written(self) -> str:
        """What the last writer has returned, empty if it failed; waits for it."""
        if self._thread.is_alive():
            self._thread.join()
        return self._written

    def _copy(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        """Returns what waits until the copies may be read."""
        on_cuda = any(tensor.is_cuda for tensor in tensors.values())
        if not self._copies:
            self._copies = {
                name: room_for(tensor.shape, tensor.dtype, on_cuda) for name, tensor in tensors.items()
            }
        for name, tensor in tensors.items():
            self._copies[name].copy_(tensor, non_blocking=on_cuda)
        if not on_cuda:
            return lambda: None
        device = next(iter(tensors.values())).device
        event = torch.cuda.current_stream(device).record_event()
        return lambda: event.synchronize()


def room_for(shape: torch.Size, dtype: torch.dtype, page_locked: bool) -> Tensor:
    """Memory on the CPU; where no page-locked is to be had ordinary, and a copy from a GPU waits."""
    try:
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=page_locked)
    except RuntimeError:
        return torch.empty(shape, dtype=dtype, device="cpu")
