"""Pictures made of many images, magnified by whole numbers so that every pixel stays a square."""

from __future__ import annotations

import io
import math
import os

import numpy as np
import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.files import atomic_path
from denoisezoo.pixels import to_uint8

LEGIBLE = 64
"""Pixels that an image is magnified to at least."""


def image_grid(
    images: Tensor, columns: int | None = None, *, scale: int | None = None, gap: int = 2, background: int = 0
) -> np.ndarray:
    """Images side by side, row by row.

    Args:
        images: uint8, or float in [-1, 1], (N, C, H, W), C 1 or 3.
        columns: Images in a row; None makes the grid as square as it can be.
        scale: Whole-number magnification, nearest neighbour; None chooses the smallest that makes an image at least 64
            pixels wide.
        gap: Pixels between images and round them, after magnification.
        background: Grey level of the gaps and of empty places.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UserError: There are no images, or they have neither 1 nor 3 channels.
    """
    if images.dim() != 4 or not len(images) or images.shape[1] not in (1, 3):
        raise UserError(f"a grid cannot be made of images of shape {tuple(images.shape)}", "give (N, 1 or 3, H, W)")
    n, _, height, width = images.shape
    scale = scale or max(1, math.ceil(LEGIBLE / width))
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    pixels = to_uint8(images).cpu().expand(-1, 3, -1, -1)
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    cell_h, cell_w = height * scale + gap, width * scale + gap
    grid = torch.full((3, -(-n // columns) * cell_h + gap, columns * cell_w + gap), background, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * cell_h + gap, i % columns * cell_w + gap
        grid[:, top : top + height * scale, left : left + width * scale] = image
    return grid.permute(1, 2, 0).contiguous().numpy()


def save_png(picture: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write uint8 (height, width, 3) as PNG, whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def png_bytes(picture: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def save_grid(
    images: Tensor, path: str | os.PathLike[str], columns: int | None = None, *, scale: int | None = None
) -> None:
    """Write a grid of images as PNG; arguments as in `image_grid`."""
    save_png(image_grid(images, columns, scale=scale), path)
