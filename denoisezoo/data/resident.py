"""Training images that stay on the GPU where they fit: batches are taken, mirrored and made floats there.

The order and the flips are those of the CPU's generator, and the arithmetic is exact, so that batches are the same, bit
for bit, as those that come from the host's memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.data.store import ImageStore, TensorStore
from denoisezoo.pixels import to_float

SHARE = 0.25
"""Of the memory that is free when training begins; the rest is for weights and activations."""


def room(device: torch.device) -> float:
    """Bytes that images may take on a device: none on a CPU, where they are already."""
    return SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0


class Resident:
    """The images of a split on a device.

    Args:
        images: uint8 (N, C, H, W).
        labels: Class of each (N,) int64, or None.
        device: Where they stay.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, device: torch.device) -> None:
        self.device = device
        self.images = images.to(device)
        self.labels = None if labels is None else labels.to(device)
        self._pass: tuple[int, Tensor, Tensor] | None = None

    def batch(self, epoch: int, order: Tensor, flips: Tensor | None, mine: slice) -> dict[str, Tensor]:
        """A batch of `image` and `label`, as `collate` makes it.

        Args:
            epoch: Number of the pass.
            order: Its permutation (N,), on the CPU, and sent to the device once in a pass.
            flips: Which images (N,) are mirrored, in this order; None mirrors none.
            mine: Which of the permutation the batch is.
        """
        if self._pass is None or self._pass[0] != epoch:
            sent = order.new_zeros(len(order), dtype=torch.bool) if flips is None else flips
            self._pass = epoch, self._send(order), self._send(sent)
        index, mirrored = (part[mine] for part in self._pass[1:])
        pixels = self.images.index_select(0, index)
        if flips is not None:
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        batch = {"image": to_float(pixels)}
        return batch if self.labels is None else batch | {"label": self.labels.index_select(0, index)}

    def _send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device; a GPU is not waited for."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)


def resident(images: ImageStore, labels: Tensor | None, device: torch.device) -> Resident | None:
    """The images on the device; None where they are not decoded in memory, or would take more than their `SHARE`."""
    if not isinstance(images, TensorStore) or images.images.nbytes > room(device):
        return None
    return Resident(images.images, labels, device)
