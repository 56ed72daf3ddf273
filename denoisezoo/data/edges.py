"""Edges of images (Canny 1986), for a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps (down, right) along gradients of 0, 45, 90 and 135 degrees."""


def canny(image: Tensor, low: float, high: float, sigma: float = 1.0) -> Tensor:
    """Where the edges of images are, (B, 1, H, W) bool.

    Smoothed by a Gaussian, Sobel gradients, thinned to ridges along the gradient, followed from strong to weak ones.

    Args:
        image: (B, C, H, W) in [-1, 1]; channels are averaged.
        low: Gradient of a weak edge, as a share of the largest that a step from -1 to 1 has without smoothing.
        high: Gradient of a strong edge.
        sigma: Of the Gaussian, in pixels.
    """
    grey = _smooth((image.mean(1, keepdim=True).float() + 1) / 2, sigma)
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=image.device) / 4
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    right, down = (F.conv2d(padded, k[None, None]) for k in (kernel, kernel.T))
    ridge = _thin(right, down)
    return _follow(ridge >= low, ridge >= high)


def _smooth(grey: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1, device=grey.device) ** 2) / (2 * sigma**2))
    line = line / line.sum()
    padded = F.pad(grey, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, line[None, None, None]), line[None, None, :, None])


def _thin(right: Tensor, down: Tensor) -> Tensor:
    """The gradient's size where it is a maximum along its own direction, elsewhere 0."""
    size = (right**2 + down**2).sqrt()
    direction = (torch.atan2(down, right) / (torch.pi / 4)).round().long() % 4
    padded = F.pad(size, (1, 1, 1, 1))
    H, W = size.shape[-2:]
    kept = torch.zeros_like(size)
    for index, (i, j) in enumerate(_NEIGHBOURS):
        ahead = padded[..., 1 + i : 1 + i + H, 1 + j : 1 + j + W]
        behind = padded[..., 1 - i : 1 - i + H, 1 - j : 1 - j + W]
        # Of two equal neighbours one is kept.
        kept = torch.where((direction == index) & (size >= behind) & (size > ahead), size, kept)
    return kept


def _follow(weak: Tensor, strong: Tensor) -> Tensor:
    """Weak edges that touch a strong one, through other weak ones."""
    reached = strong
    while True:
        grown = (F.max_pool2d(reached.float(), 3, 1, 1) > 0) & weak
        if torch.equal(grown, reached):
            return reached
        reached = grown
