"""Orthonormal transforms of images: the Haar pyramid and the DCT-II. Isometries with exact inverses.

The Haar pyramid is laid out as the classical mosaic, the approximation top left, so that dropping the finest details
is cropping to the top left quarter, and an image of half the size is what is left. Batched, in the input's dtype and on
its device, of operations that compile. Facts: "A theory for multiresolution signal decomposition" (Mallat 1989);
"Discrete Cosine Transform" (Ahmed, Natarajan, Rao 1974).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from denoisezoo.errors import UserError


def check_levels(height: int, width: int, levels: int) -> None:
    """Refuse sizes that cannot be halved `levels` times.

    Raises:
        UserError: Naming the size and what it must be divisible by.
    """
    factor = 2**levels
    if levels < 0 or height % factor or width % factor:
        raise UserError(
            f"size {height}x{width} cannot be halved {levels} times", f"use multiples of {factor}, or fewer levels"
        )


def check_resolution(resolution: int) -> None:
    """Refuse images without pixels.

    Raises:
        UserError: Saying so.
    """
    if resolution < 1:
        raise UserError(f"resolution is {resolution}", "give the height of the images, at least 1")


def haar(image: Tensor, levels: int) -> Tensor:
    """Haar pyramid: image (..., H, W) to its mosaic (..., H, W).

    Args:
        image: H and W divisible by 2^levels.
        levels: Halvings; 0 is the identity. The approximation grows by 2 with every level.

    Raises:
        UserError: A size that cannot be halved so often.
    """
    height, width = image.shape[-2:]
    check_levels(height, width, levels)
    if levels == 0:
        return image
    top, bottom = image[..., 0::2, :], image[..., 1::2, :]
    rows = torch.cat([top + bottom, top - bottom], dim=-2)
    left, right = rows[..., 0::2], rows[..., 1::2]
    mosaic = torch.cat([left + right, left - right], dim=-1) / 2
    if levels > 1:
        h, w = height // 2, width // 2
        mosaic[..., :h, :w] = haar(mosaic[..., :h, :w], levels - 1)
    return mosaic


def inverse_haar(mosaic: Tensor, levels: int) -> Tensor:
    """Inverse of `haar`.

    Args:
        mosaic: (..., H, W) as `haar` returns it.
        levels: As given to `haar`.

    Raises:
        UserError: A size that cannot be halved so often.
    """
    height, width = mosaic.shape[-2:]
    check_levels(height, width, levels)
    if levels == 0:
        return mosaic
    h, w = height // 2, width // 2
    if levels > 1:
        mosaic = mosaic.clone()
        mosaic[..., :h, :w] = inverse_haar(mosaic[..., :h, :w], levels - 1)
    low, high = mosaic[..., :h, :] / 2, mosaic[..., h:, :] / 2
    rows = torch.stack([low + high, low - high], dim=-2).flatten(-3, -2)
    low, high = rows[..., :w], rows[..., w:]
    return torch.stack([low + high, low - high], dim=-1).flatten(-2)


def haar_bands(resolution: int, levels: int) -> Tensor:
    """Band of every coefficient of a square mosaic, (resolution, resolution) int64.

    0 are the finest details, `levels` - 1 the coarsest, and `levels` the approximation.

    Raises:
        UserError: A size that cannot be halved so often, or none.
    """
    check_resolution(resolution)
    check_levels(resolution, resolution, levels)
    index = torch.arange(resolution, device="cpu")
    largest = torch.maximum(index[:, None], index)
    band = torch.full_like(largest, levels)
    for level in range(levels):
        band[(largest >= resolution >> (level + 1)) & (largest < resolution >> level)] = level
    return band


def _cosines(n: int, like: Tensor) -> Tensor:
    """The DCT's matrix (n, n) in the dtype and on the device of `like`, kept for the next time."""
    build = _build_cosines if torch.compiler.is_compiling() else _kept_cosines
    return build(n, like.dtype, like.device)


def _build_cosines(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal DCT-II matrix (n, n): sqrt((2 - [k = 0]) / n) cos(pi k (2 i + 1) / (2 n))."""
    with torch.inference_mode(False):  # kept for later, when gradients may be wanted
        k = torch.arange(n, dtype=torch.float64, device="cpu")
        matrix = torch.cos(math.pi / (2 * n) * k[:, None] * (2 * k + 1)) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device=device, dtype=dtype)


_kept_cosines = lru_cache(maxsize=16)(_build_cosines)


def dct(image: Tensor) -> Tensor:
    """DCT-II over the last two axes: image (..., H, W) to frequencies (..., H, W), the constant top left."""
    rows, columns = (_cosines(n, image) for n in image.shape[-2:])
    with torch.autocast(image.device.type, enabled=False):
        return rows @ image @ columns.T


def inverse_dct(frequencies: Tensor) -> Tensor:
    """Inverse of `dct`."""
    rows, columns = (_cosines(n, frequencies) for n in frequencies.shape[-2:])
    with torch.autocast(frequencies.device.type, enabled=False):
        return rows.T @ frequencies @ columns


def laplacian(resolution: int) -> Tensor:
    """Lambda_kl = f_k^2 + f_l^2 with f_k = pi k / N (blurring diffusion, arXiv 2209.05557): (N, N), float64.

    Raises:
        UserError: No pixels.
    """
    check_resolution(resolution)
    f = torch.arange(resolution, dtype=torch.float64, device="cpu") * math.pi / resolution
    return f[:, None] ** 2 + f**2
