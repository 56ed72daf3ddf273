"""Does a model copy its training images? Nearest neighbours in pixel space, three figures and a picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.distances import nearest
from denoisezoo.pictures import image_grid
from denoisezoo.pixels import check_images, to_float, to_uint8

COPY_RATIO = 1 / 3
EQUAL = 1e-6


def flat_pixels(images: Tensor) -> Tensor:
    """Pixels (N, C H W), float64 in [-1, 1], of uint8 or float images (N, C, H, W)."""
    return to_float(to_uint8(images)).double().flatten(1)


def training_neighbours(samples: Tensor, training: Tensor, k: int = 2) -> tuple[Tensor, Tensor]:
    """The `k` training images nearest to each sample.

    Args:
        samples: Images (N, C, H, W), uint8 or float in [-1, 1].
        training: Images (M, C, H, W), uint8 or float.
        k: How many.

    Returns:
        Distances (N, k), ascending, root-mean-square difference per pixel in units of [-1, 1], so 0 to 2; and
        indices (N, k) into `training`.

    Raises:
        UserError: The shapes differ, there are fewer than `k` training images, or images are neither uint8 nor in
            [-1, 1].
    """
    if samples.shape[1:] != training.shape[1:]:
        raise UserError(
            f"samples of shape {tuple(samples.shape[1:])} and training images of shape {tuple(training.shape[1:])}"
            " cannot be compared",
            "give the data set that the model was trained on, at its resolution",
        )
    check_images(samples, "samples")
    check_images(training, "training images")
    if len(training) < k:
        raise UserError(f"{len(training)} training images have no {k} nearest neighbours", "give more training images")
    distances, indices = nearest(flat_pixels(samples), flat_pixels(training), k)
    distances = distances / math.prod(samples.shape[1:]) ** 0.5
    # Below one grey level in one pixel there is only rounding: the images are equal.
    return torch.where(distances < EQUAL, 0.0, distances), indices


def memorisation(samples: Tensor, training: Tensor, held_out: Tensor | None = None) -> dict[str, float]:
    """How near samples are to training images.

    Args:
        samples: Samples images (N, C, H, W), uint8 or float in [-1, 1].
        training: The images that the model was trained on (M, C, H, W).
        held_out: Real images that it was not trained on (H, C, H, W).

    Returns:
        `nn_ratio`: median over samples of (distance to the nearest) / (distance to the second nearest training image);
        `memorised_share`: share of samples with that ratio at most 1/3 (Yoon et al. 2023, ICML workshop SPIGM);
        with `held_out` also `nearer_than_held_out`: the chance that a random sample is nearer to the training images
        than a random held-out image is (the statistic of Meehan et al. 2020, arXiv 2004.05675). 0.5 is what new images
        of the same kind would reach; near 1 means copies.
    """
    others = None if held_out is None else training_neighbours(held_out, training, 1)[0]
    return memorised(training_neighbours(samples, training, 2)[0], others)


def memorised(distances: Tensor, held_out: Tensor | None = None) -> dict[str, float]:
    """The figures of `memorisation`.

    Args:
        distances: From samples to the two training images that are nearest to each (N, 2).
        held_out: From held-out images to the nearest of each (H, 1).
    """
    first, second = distances.T.contiguous()
    ratio = torch.where(second > 0, first / second.clamp(min=torch.finfo(second.dtype).tiny), torch.zeros_like(first))
    figures = {
        "nn_ratio": float(ratio.median()),
        "memorised_share": float((ratio <= COPY_RATIO).double().mean()),
    }
    if held_out is not None and len(held_out):
        figures["nearer_than_held_out"] = _chance_below(first, held_out.flatten())
    return figures


def _chance_below(a: Tensor, b: Tensor) -> float:
    """The chance that a random entry of `a` (N,) is below one of `b` (M,); equal ones count half (Mann-Whitney)."""
    ordered = b.sort().values
    below, up_to = torch.searchsorted(ordered, a), torch.searchsorted(ordered, a, right=True)
    return float(1 - (below + up_to).double().mean() / (2 * len(b)))


def neighbour_grid(samples: Tensor, training: Tensor, k: int = 3, scale: int | None = None) -> np.ndarray:
    """A picture with one row per sample: the sample, a gap, then its `k` nearest training images.

    Args:
        samples: Images (N, C, H, W), uint8 or float in [-1, 1]; a few.
        training: Images (M, C, H, W).
        k: Neighbours to show.
        scale: Whole-number magnification; None chooses one that makes an image at least 64 pixels wide.

    Returns:
        uint8 (height, width, 3).
    """
    _, indices = training_neighbours(samples, training, k)
    samples, training = to_uint8(samples), to_uint8(training)
    gap = torch.full_like(samples, 255)
    rows = [torch.cat([samples[i : i + 1], gap[i : i + 1], training[indices[i]]]) for i in range(len(samples))]
    return image_grid(torch.cat(rows), columns=k + 2, scale=scale, background=255)
