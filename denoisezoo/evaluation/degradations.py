"""Real images made worse by known amounts, to see which figures tell."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoisezoo.pixels import to_float, to_uint8

CLUSTERS = 10
"""Modes of a data set, found by k-means of its pixels, whether or not it has classes."""


@dataclass(frozen=True)
class Degradation:
    """One way to make a set of images worse.

    Attributes:
        amounts: From little to much.
        unit: What they are.
        change: Of the pixels, (uint8 images (N, C, H, W), amount, generator) -> images; None where images stay as they
            are, and others are taken.
        choose: Of the images, (images, amount, generator) -> indices (N,) of those that are taken; None for all.
    """

    amounts: tuple[float, ...]
    unit: str
    change: Callable[[Tensor, float, torch.Generator], Tensor] | None = None
    choose: Callable[[Tensor, float, torch.Generator], Tensor] | None = None


def blur(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """A Gaussian filter whose standard deviation is `amount` of the images' width."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = amount * images.shape[-1]
    width = 2 * min(math.ceil(3 * sigma), images.shape[-1] - 1) + 1
    return to_uint8(gaussian_blur(to_float(images), [width, width], [sigma, sigma]))


def noise(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """White noise of that standard deviation, on [-1, 1]."""
    return to_uint8(to_float(images) + amount * torch.randn(images.shape, generator=generator))


def jpeg(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Written as JPEG of quality 100 - `amount` and read again."""
    return torch.stack([_through_jpeg(image, 100 - round(amount)) for image in images])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    file, grey = io.BytesIO(), len(image) == 1
    Image.fromarray((image[0] if grey else image.permute(1, 2, 0)).numpy()).save(file, "JPEG", quality=quality)
    read = torch.from_numpy(np.array(Image.open(file)))
    return read[None] if grey else read.permute(2, 0, 1)


def lose_modes(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """That share of the clusters is left out, and others of the images that remain are taken again in their place."""
    from sklearn.cluster import KMeans

    clusters = KMeans(CLUSTERS, n_init=1, random_state=0).fit_predict(to_float(images).flatten(1).numpy())
    lost = torch.randperm(CLUSTERS, generator=generator)[: round(amount * CLUSTERS)]
    kept = (~torch.isin(torch.from_numpy(clusters), lost)).nonzero()[:, 0]
    again = kept[torch.randint(len(kept), (len(images) - len(kept),), generator=generator)]
    return torch.cat([kept, again])


def repeat(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """All are copies of a share 1 - `amount` of the images."""
    few = max(1, round((1 - amount) * len(images)))
    return torch.randperm(len(images), generator=generator)[:few].repeat(math.ceil(len(images) / few))[: len(images)]


DEGRADATIONS = {
    "blur": Degradation((0.03, 0.06, 0.12, 0.24), "standard deviation / width", change=blur),
    "noise": Degradation((0.05, 0.1, 0.2, 0.4), "standard deviation", change=noise),
    "jpeg": Degradation((20, 50, 80, 95), "100 - quality", change=jpeg),
    "lost modes": Degradation((0.1, 0.3, 0.5, 0.8), "share of clusters", choose=lose_modes),
    "repeats": Degradation((0.5, 0.75, 0.9, 0.97), "1 - share of different images", choose=repeat),
}
COPIES = "copies"
COPIED = (0.1, 0.25, 0.5, 1.0)
"""Shares of images that are training images with a trace of noise."""
TRACE = 0.02
