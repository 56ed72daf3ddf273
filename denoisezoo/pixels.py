"""The two ways between pixels (uint8, 0..255) and what networks see (float, -1..1); everything uses these two."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(image: Tensor) -> Tensor:
    """Pixels of an image: clip(127.5 x + 128, 0, 255), then truncation, as in EDM (Karras 2022, arXiv 2206.00364).

    Args:
        image: Float, [-1, 1], any shape; uint8 is returned as it is.

    Returns:
        uint8, 0..255, same shape. `to_uint8(to_float(pixels))` is `pixels` again.
    """
    if image.dtype == torch.uint8:
        return image
    return (image.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)


def to_float(pixels: Tensor, *, pin_memory: bool = False) -> Tensor:
    """Image of pixels: x / 127.5 - 1.

    Args:
        pixels: uint8, 0..255, any shape; a floating tensor is taken to be an image already.
        pin_memory: Put the result in page-locked memory, from which a copy to a CUDA device need not be waited for.

    Returns:
        float32, [-1, 1], same shape.
    """
    if pixels.is_floating_point():
        return pixels.float()
    image = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device, pin_memory=pin_memory)
    return image.copy_(pixels).div_(127.5).sub_(1)
