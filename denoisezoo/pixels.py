"""The two ways between pixels (uint8, 0..255) and what networks see (float, -1..1); everything uses these two."""

from __future__ import annotations

import functools
import hashlib
import sys

import torch
from torch import Tensor

from denoisezoo.errors import UserError

CURE = "give uint8 from 0 to 255, or float in [-1, 1], which is pixels / 127.5 - 1"
FAR = 16.0
"""Above this, values that are never negative are pixels, and no image in [-1, 1] that goes beyond, however far."""


def check_images(images: Tensor, what: str = "images") -> None:
    """Refuse what cannot be images as this package takes them: uint8 from 0 to 255, or float in [-1, 1].

    Float images may go beyond that, as samples do, and are clipped. Those in [0, 1] cannot be told from bright ones for
    certain: where none of their values is negative, that is said on standard error.

    Args:
        images: Any shape.
        what: What to call them.

    Raises:
        UserError: Integers of another type, or floats that are pixels.
    """
    if images.dtype == torch.uint8 or not images.numel():
        return
    _check_dtype(images, what)
    low, high = (float(value) for value in images.detach().aminmax())
    if low >= 0 and high > FAR:
        raise UserError(f"the {what} are float from {low:g} to {high:g}, as pixels are", CURE)
    if low >= 0 and high > 0.5:
        _warn(f"warning: none of the {what} has a value below 0; {CURE}")


@functools.cache
def _warn(text: str) -> None:
    """Say something once in a process, however often images come by."""
    print(text, file=sys.stderr)


def as_image(images: Tensor, what: str = "images") -> Tensor:
    """Images as float in [-1, 1]: uint8 becomes float32, and float stays as it is.

    Raises:
        UserError: See `check_images`.
    """
    check_images(images, what)
    return to_float(images) if images.dtype == torch.uint8 else images


def _check_dtype(images: Tensor, what: str = "images") -> None:
    """Refuse integers of other types, whose range nobody knows."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"the {what} are {str(images.dtype).removeprefix('torch.')}", CURE)


def to_uint8(image: Tensor) -> Tensor:
    """Pixels of an image: clip(127.5 x + 128, 0, 255), then truncation, as in EDM (Karras 2022, arXiv 2206.00364).

    Args:
        image: Float, [-1, 1], any shape; uint8 is returned as it is.

    Returns:
        uint8, 0..255, same shape. `to_uint8(to_float(pixels))` is `pixels` again.

    Raises:
        UserError: Integers of another type.
    """
    _check_dtype(image)
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

    Raises:
        UserError: Integers of another type.
    """
    _check_dtype(pixels, "pixels")
    if pixels.is_floating_point():
        return pixels.float()
    image = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device, pin_memory=pin_memory)
    return image.copy_(pixels).div_(127.5).sub_(1)


def sha256_of(pixels: Tensor) -> str:
    """Hash of the shape and the values of uint8 images."""
    return hashlib.sha256(f"{tuple(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes()).hexdigest()
