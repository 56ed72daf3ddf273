"""How far a Frechet distance would move with other images of the same two kinds."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from denoisezoo.evaluation.frechet import frechet_distance, gaussian_stats

RESAMPLES = 32
NORMAL_95 = 1.96


def frechet_interval(a: Tensor, b: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the Frechet distance of two sets of features, at these numbers of images.

    Both sets are drawn again with replacement. Such a draw has fewer different images, and so a larger distance: the
    bootstrap (Efron 1979) gives the width, and the interval lies about the distance of the sets themselves. It says
    nothing of the bias of finite sets, for which there is the distance of two halves.

    Args:
        a: Features (N, D).
        b: Features (M, D).
        resamples: How often.
        seed: Of the draws.

    Returns:
        Lower end, not below 0, and upper end.
    """
    generator = torch.Generator().manual_seed(seed)

    def again(x: Tensor) -> Tensor:
        return x[torch.randint(len(x), (len(x),), generator=generator).to(x.device)]

    found = [frechet_distance(gaussian_stats(again(a)), gaussian_stats(again(b))) for _ in range(resamples)]
    middle = frechet_distance(gaussian_stats(a), gaussian_stats(b))
    half = NORMAL_95 * statistics.stdev(found)
    return max(0.0, middle - half), middle + half
